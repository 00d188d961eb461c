"""Whether a bundle's files are those that were written: presence, size, SHA-256."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from trtc.errors import TrtcError

BLOCK = 1 << 20   # bytes hashed at a time; hashing lets other threads run
AGAIN = "help: the engine is damaged: copy it again, or compile it again"


@dataclass(frozen=True)
class FileEntry:
    """The SHA-256 in hex and the size of one file."""

    sha256: str
    bytes: int


def check_files(folder: Path, entries: Mapping[str, FileEntry], verify: bool) -> None:
    """Compare the files in ``folder`` with their entries.

    Args:
        verify: also hash the contents, in parallel.
    Errors:
        TrtcError: a file is missing, or its size or its hash is another.
    """
    for name, entry in entries.items():
        _check_size(folder / name, entry.bytes)
    if not verify:
        return
    paths = [folder / name for name in entries]
    with ThreadPoolExecutor() as pool:
        for (name, entry), actual in zip(entries.items(), pool.map(_sha256, paths), strict=True):
            if actual != entry.sha256:
                said = f"{actual[:12]}..., but engine.json says {entry.sha256[:12]}..."
                raise TrtcError(f"{folder / name} has SHA-256 {said}", AGAIN)


def _check_size(file: Path, expected: int) -> None:
    try:
        actual = file.stat().st_size
    except FileNotFoundError:
        raise TrtcError(f"{file} is missing, but engine.json lists it", AGAIN) from None
    if actual != expected:
        raise TrtcError(f"{file} has {actual} bytes, but engine.json says {expected}", AGAIN)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
