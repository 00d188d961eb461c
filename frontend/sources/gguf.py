"""GGUF files: metadata and tensors, mapped in place.

Source: docs/gguf.md of ggml, versions 2 and 3; little-endian.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from trtc.errors import TrtcError
from trtc.frontend.sources.mapped import POINTER, Entry, MappedSource
from trtc.ir.types import DType, bf16, f16, f32, i8, i32, i64, u8

MAGIC, VERSIONS = b"GGUF", (2, 3)
PLAIN: dict[int, tuple[str, DType]] = {
    0: ("F32", f32), 1: ("F16", f16), 30: ("BF16", bf16), 24: ("I8", i8), 26: ("I32", i32), 27: ("I64", i64),
}   # fmt: skip
BLOCKS: dict[int, tuple[str, int, int]] = {
    2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 20: ("IQ4_NL", 32, 18), 23: ("IQ4_XS", 256, 136),
}   # fmt: skip
"""Element types that come in blocks: the name, the numbers of a block and its bytes."""
OTHERS = {
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S", 22: "IQ2_S",
    25: "I16", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4",
}   # fmt: skip
"""Names of those that are not read."""
MAX_AXES, MAX_ALIGNMENT = 4, 1 << 20
NUMBERS = {0: "u1", 1: "i1", 2: "u2", 3: "i2", 4: "u4", 5: "i4", 6: "f4", 10: "u8", 11: "i8", 12: "f8"}
"""Types of metadata that are one number, as NumPy spells them."""
BOOL, STRING, ARRAY = 7, 8, 9
AGAIN = "help: the file is cut short or is no GGUF file; fetch it again"


@dataclass(frozen=True)
class Header:
    """What a file says before its tensors."""

    metadata: dict[str, Any]
    entries: dict[str, Entry]


class GgufSource(MappedSource):
    """The tensors of some GGUF files by key; those in blocks are u8[..., blocks, bytes of a block].

    ``metadata`` is what the first file says besides.
    """

    dtypes = dict(PLAIN.values()) | {name: u8 for name, _, _ in BLOCKS.values()}

    def __init__(self, folder: Path, files: list[str]) -> None:
        self.metadata: dict[str, Any] = {}
        super().__init__(folder, files)

    def read(self, file: Path) -> dict[str, Entry]:
        header = read_header(file)
        if file.name == self.files[0]:
            self.metadata = header.metadata
        return header.entries


def read_header(file: Path) -> Header:
    """The metadata and the entries of one file, each within its length."""
    try:
        with file.open("rb") as handle:
            if not file.stat().st_size:
                raise ValueError("it is empty")
            with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _header(file, _Cursor(data))
    except OSError as error:
        raise TrtcError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, struct.error, OverflowError) as error:
        with file.open("rb") as handle:
            note = POINTER if handle.read(8) == b"version " else AGAIN
        raise TrtcError(f"{file.name} cannot be read as a GGUF file: {error}", note) from None


class _Cursor:
    """A place in a file; what is read from there must lie in it."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> int:
        """The place, after which as many bytes are passed over."""
        start = self.at
        if count > len(self.data) - start:
            raise ValueError(f"it has {len(self.data)} bytes, but {count} are asked for from byte {start} on")
        self.at += count
        return start

    def number(self, kind: str) -> Any:
        dtype = np.dtype(f"<{kind}")
        return np.frombuffer(self.data, dtype, 1, self.take(dtype.itemsize))[0].item()

    def string(self) -> str:
        count = self.number("u8")
        start = self.take(count)
        return self.data[start : start + count].decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        if kind in NUMBERS:
            return self.number(NUMBERS[kind])
        if kind == BOOL:
            return bool(self.number("u1"))
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            raise ValueError(f"a value is of type {kind}, but must be of one of 0..12")
        return self.array(self.number("u4"), self.number("u8"))

    def array(self, kind: int, count: int) -> Any:
        """A list of strings, or the numbers of an array."""
        if kind == STRING:
            if count > (len(self.data) - self.at) // 8:
                raise ValueError(f"it has {len(self.data)} bytes, but an array asks for {count} strings")
            return [self.string() for _ in range(count)]
        if kind not in NUMBERS and kind != BOOL:
            raise ValueError(f"an array is of type {kind}, but must be of numbers, of bools or of strings")
        dtype = np.dtype(f"<{NUMBERS.get(kind, 'u1')}")
        return np.frombuffer(self.data, dtype, count, self.take(count * dtype.itemsize)).tolist()


def _header(file: Path, cursor: _Cursor) -> Header:
    start = cursor.take(4)
    if cursor.data[start : start + 4] != MAGIC:
        raise ValueError(f"it begins with {cursor.data[start : start + 4]!r}, but must begin with {MAGIC!r}")
    version = cursor.number("u4")
    if version not in VERSIONS:
        big = " (it is big-endian)" if version >> 24 in VERSIONS else ""
        raise ValueError(f"its version is {version}{big}, but must be 2 or 3")
    tensors, keys = cursor.number("u8"), cursor.number("u8")
    metadata: dict[str, Any] = {}
    for _ in range(keys):
        key = cursor.string()
        if key in metadata:
            raise ValueError(f"{key} is there twice")
        metadata[key] = cursor.value(cursor.number("u4"))
    found: list[tuple[str, tuple[int, ...], int, int]] = [
        (cursor.string(), _axes(cursor), cursor.number("u4"), cursor.number("u8")) for _ in range(tensors)
    ]
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 1 <= alignment <= MAX_ALIGNMENT:
        raise ValueError(f"general.alignment is {alignment!r}, but must be in 1..{MAX_ALIGNMENT}")
    first, entries = -(-cursor.at // alignment) * alignment, dict[str, Entry]()
    for key, shape, kind, offset in found:
        if key in entries:
            raise ValueError(f"tensor {key} is there twice")
        entries[key] = _entry(file, key, shape, kind, first + offset)
        if entries[key].stop > len(cursor.data):
            raise ValueError(f"it has {len(cursor.data)} bytes, but tensor {key} ends at byte {entries[key].stop}")
    return Header(metadata, entries)


def _axes(cursor: _Cursor) -> tuple[int, ...]:
    """Sizes, the outermost first; the file has the innermost first."""
    count = cursor.number("u4")
    if count > MAX_AXES:
        raise ValueError(f"a tensor has {count} axes, but must have at most {MAX_AXES}")
    return tuple(cast("int", cursor.number("u8")) for _ in range(count))[::-1]


def _entry(file: Path, key: str, shape: tuple[int, ...], kind: int, start: int) -> Entry:
    if any(size >= 1 << 48 for size in shape):
        raise ValueError(f"tensor {key} is of sizes that no file has")
    if kind in PLAIN:
        name, dtype = PLAIN[kind]
        return Entry(file, name, shape, start, start + math.prod(shape) * dtype.bits // 8)
    if kind not in BLOCKS:
        return Entry(file, OTHERS.get(kind, f"of type {kind}"), shape, start, start)
    name, size, width = BLOCKS[kind]
    row = shape[-1] if shape else 1
    if row % size:
        raise ValueError(f"tensor {key} has rows of {row} numbers, but {name} comes in blocks of {size}")
    sizes = (*shape[:-1], row // size, width)
    return Entry(file, name, sizes, start, start + math.prod(sizes))
