"""Tar archives, read where they lie: which bytes of the file each member is. Nothing is ever unpacked.

Source: POSIX.1-1988 (ustar) and POSIX.1-2001 (pax); GNU tar for long names and large sizes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trtc.errors import TrtcError
from trtc.frontend.sources.window import Window

BLOCK = 512
HEADER = struct.Struct("100s24x12s12x8sc100s6s82x155s12x")   # name, size, checksum, type, link, magic, prefix
REGULAR, EMPTY, LONG_NAME, PAX = b"\0" b"07", b"123456", b"L", b"x"   # types; those without data are links and folders
PASSED = b"gK"   # pax for all members, long names of links
MAX_RECORDS = 1 << 16   # bytes of a long name or of pax records
AGAIN = "help: the file is cut short or is no checkpoint; fetch it again"


@dataclass(frozen=True)
class Member:
    """A part of a file, under a name of its own.

    Args:
        name: without folders.
    """

    name: str
    file: Path
    start: int
    size: int

    def open(self, _: str = "rb") -> Window:
        return Window(self.file, self.start, self.size)

    def read(self, longest: int) -> bytes:
        """All of it; an error where it is longer."""
        if self.size > longest:
            raise TrtcError(f"{self.file.name}: {self.name} has {self.size} bytes, but must have at most {longest}")
        with self.open() as window:
            return window.read()


def read_tar(file: Path) -> dict[str, Member]:
    """The regular files of an uncompressed archive by their paths in it; links and folders are passed over.

    Errors:
        TrtcError: the file is no such archive, or is cut short.
    """
    try:
        with Window(file) as window:
            first = window.read(2)
            if first == b"\x1f\x8b":
                unpack = f"help: unpack it, and give the folder: mkdir FOLDER && tar -xzf {file.name} -C FOLDER"
                raise TrtcError(f"{file.name} is compressed, but what is in it must lie there as it is", unpack)
            return dict(_members(file, window))
    except OSError as error:
        raise TrtcError(f"{file} cannot be read: {error.strerror or error}") from None
    except (ValueError, OverflowError, struct.error) as error:
        raise TrtcError(f"{file.name} cannot be read as a tar archive: {error}", AGAIN) from None


def _members(file: Path, window: Window) -> Iterator[tuple[str, Member]]:
    at, seen, longer = 0, set[str](), dict[str, str]()
    while at + BLOCK <= window.size:
        window.seek(at)
        block = window.read(BLOCK)
        if not any(block):
            return   # what ends an archive
        name, size, checksum, kind, _, magic, prefix = HEADER.unpack(block)
        if sum(block) - sum(checksum) + 8 * 0x20 != _number(checksum):
            raise ValueError(f"byte {at} begins no header")
        size = 0 if kind in EMPTY else int(longer.get("size") or _number(size))
        start, at = at + BLOCK, at + BLOCK + -(-size // BLOCK) * BLOCK
        if size < 0 or start + size > window.size:
            raise ValueError(f"a member of {size} bytes begins at byte {start}, but the file has {window.size}")
        if kind in LONG_NAME + PAX:
            longer |= _longer(window, start, size, kind)
            continue
        folder = _text(prefix) if magic == b"ustar\0" else ""   # GNU's own form keeps times there
        path, longer = longer.get("path") or f"{folder}/{_text(name)}".lstrip("/"), {}
        if kind in REGULAR:
            path = path.removeprefix("./")
            if path in seen:
                raise ValueError(f"member {path} is there twice")
            seen.add(path)
            yield path, Member(path.rpartition("/")[2], file, start, size)
        elif kind not in EMPTY + PASSED:
            raise ValueError(f"member {path} is of type {kind!r}, but must be a plain file")
    raise ValueError("its end is missing")


def _longer(window: Window, start: int, size: int, kind: bytes) -> dict[str, str]:
    """What a header before the header of a member says in its stead: its path, its size."""
    if size > MAX_RECORDS:
        raise ValueError(f"a name has {size} bytes, but must have at most {MAX_RECORDS}")
    window.seek(start)
    content = window.read(size)
    if kind == LONG_NAME:
        return {"path": _text(content)}
    found: dict[str, str] = {}
    while content:
        length, _, _ = content.partition(b" ")
        record, content = content[: int(length)], content[int(length) :]
        key, _, value = record[len(length) + 1 : -1].partition(b"=")
        if not record:
            raise ValueError("a record is empty")
        if key in (b"path", b"size"):
            found[key.decode()] = value.decode()
        elif key.startswith(b"GNU.sparse"):
            raise ValueError("a member is sparse, but must be a plain file")
    return found


def _number(field: bytes) -> int:
    """In octal digits, or in base 256 where the first bit is set."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    return int(field.strip(b"\0 ") or b"0", 8)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode()
