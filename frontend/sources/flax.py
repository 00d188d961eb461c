"""Flax's files of msgpack, tensors mapped in place.

Source: the msgpack specification; flax.serialization: an array is an extension of type 1 whose content is the msgpack
of (shape, dtype, bytes); a large one is a map of chunks of one axis.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from trtc.errors import TrtcError
from trtc.frontend.sources.mapped import MAX_RANK, POINTER, Entry, MappedSource
from trtc.frontend.sources.pieces import Kept, Pieces
from trtc.ir.types import DType, bf16, bool_, f8e4m3, f16, f32, i8, i32, i64, u8

DTYPES: dict[str, DType] = {
    "float32": f32, "float16": f16, "bfloat16": bf16, "float8_e4m3fn": f8e4m3, "int8": i8, "uint8": u8, "int32": i32,
    "int64": i64, "bool": bool_,
}   # fmt: skip
CHUNKED = "__msgpack_chunked_array__"
NDARRAY = 1   # of extensions
MAX_DEPTH, MAX_VALUES, MAX_TEXT = 64, 1 << 17, 1 << 12
CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
NUMBERS = {
    0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i",
    0xD3: ">q",
}   # fmt: skip
LENGTHS: dict[int, tuple[str, str]] = {
    0xC4: ("bin", ">B"), 0xC5: ("bin", ">H"), 0xC6: ("bin", ">I"), 0xC7: ("ext", ">B"), 0xC8: ("ext", ">H"),
    0xC9: ("ext", ">I"), 0xD9: ("str", ">B"), 0xDA: ("str", ">H"), 0xDB: ("str", ">I"), 0xDC: ("array", ">H"),
    0xDD: ("array", ">I"), 0xDE: ("map", ">H"), 0xDF: ("map", ">I"),
}   # fmt: skip
"""Kinds of values by their first byte, and the format of the length behind it."""
AGAIN = "help: the file is cut short or is no checkpoint; fetch it again"


@dataclass(frozen=True)
class Span:
    """Bytes ``start..stop`` that were not read."""

    start: int
    stop: int


class FlaxSource(MappedSource):
    """The arrays of some files by the names that lead to them, with slashes between: ``model/embed_tokens/embedding``.

    Args: as of `MappedSource`.
    """

    dtypes = DTYPES

    def __init__(self, folder: Path, files: list[str], homes: Mapping[str, str] | None = None) -> None:
        self.pieces: dict[str, Pieces] = {}
        super().__init__(folder, files, homes)

    def read(self, file: Path) -> dict[str, Entry]:
        kept = read_flax(file)
        self.pieces |= kept.pieces
        return kept.entries


def read_flax(file: Path) -> Kept:
    """The arrays of one file, none of their bytes read.

    Errors:
        TrtcError: the file is no msgpack of nested maps, is cut short, or holds an array that does not fit.
    """
    kept = Kept()
    try:
        with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
            reader = _Reader(file, data, 0, len(data))
            tree = reader.value()
            reader.finish()
            _gather(kept, "", tree)
    except OSError as error:
        raise TrtcError(f"{file} cannot be read: {error.strerror or error}") from None
    except (ValueError, TypeError, LookupError, struct.error) as error:
        with file.open("rb") as handle:
            note = POINTER if handle.read(8) == b"version " else AGAIN
        raise TrtcError(f"{file.name} cannot be read as a file of Flax: {error}", note) from None
    return kept


def _gather(kept: Kept, key: str, value: Any) -> None:
    """Entries of all arrays below a value; other values are passed over."""
    if isinstance(value, Entry):
        kept.put(key, value.shape, [value])
    elif isinstance(value, dict):
        every = cast("dict[str, Any]", value)
        if CHUNKED in every:
            _unchunk(kept, key, _listed(every["shape"]), _listed(every["chunks"]))
            return
        for name, inner in every.items():
            _gather(kept, f"{key}/{name}" if key else name, inner)


def _listed(numbered: Any) -> list[Any]:
    """The values of {"0": ..., "1": ...} in order."""
    return [numbered[str(n)] for n in range(len(numbered))]


def _unchunk(kept: Kept, key: str, shape: list[Any], chunks: list[Any]) -> None:
    sizes = _sizes(shape)
    if not chunks or not all(isinstance(c, Entry) and len(c.shape) == 1 and c.dtype == chunks[0].dtype for c in chunks):
        raise ValueError(f"array {key} is in chunks that are no arrays of one axis and one element type")
    if math.prod(sizes) != sum(c.shape[0] for c in chunks):
        raise ValueError(f"array {key} has {sum(c.shape[0] for c in chunks)} elements, but its shape {sizes}")
    kept.put(key, sizes, chunks)


def _sizes(shape: list[Any]) -> tuple[int, ...]:
    if not all(type(n) is int and 0 <= n < 1 << 48 for n in shape) or len(shape) > MAX_RANK:
        raise ValueError("sizes must be whole numbers that a file can have")
    return tuple(shape)


class _Reader:
    """Reads values one after the other; bytes are told by where they lie.

    Args:
        start, stop: the part of the data that may be read.
    """

    def __init__(self, file: Path, data: mmap.mmap, start: int, stop: int) -> None:
        self.file, self.data, self.at, self.stop, self.left = file, data, start, stop, MAX_VALUES
        self.make: dict[str, Callable[[int, int], Any]] = {
            "str": self._text, "bin": self._bytes, "ext": self._extension, "array": self._array, "map": self._map,
        }   # fmt: skip

    def value(self, depth: int = 0) -> Any:
        """A number, a text, a list, a map of texts, a `Span` for bytes, or an `Entry` for an array."""
        self.left -= 1
        if depth > MAX_DEPTH or self.left < 0:
            raise ValueError(f"it has more than {MAX_VALUES} values, or more than {MAX_DEPTH} in one another")
        code = self._number(">B")
        if code <= 0x7F or code >= 0xE0:
            return code if code <= 0x7F else code - 256
        if code in CONSTANTS or code in NUMBERS:
            return CONSTANTS[code] if code in CONSTANTS else self._number(NUMBERS[code])
        if 0xD4 <= code <= 0xD8:
            return self._extension(1 << (code - 0xD4), depth)
        if code in LENGTHS:
            kind, form = LENGTHS[code]
            return self.make[kind](self._number(form), depth)
        if code == 0xC1:
            raise ValueError("there is no value that begins with 0xc1")
        kind = "str" if code >= 0xA0 else "array" if code >= 0x90 else "map"
        return self.make[kind](code & (31 if kind == "str" else 15), depth)

    def finish(self) -> None:
        if self.at != self.stop:
            raise ValueError(f"it has {self.stop - self.at} bytes more than its value")

    def _number(self, form: str) -> Any:
        start, stop = self._take(struct.calcsize(form))
        return struct.unpack(form, self.data[start:stop])[0]

    def _take(self, count: int) -> tuple[int, int]:
        """The next bytes, stepped over."""
        start, self.at = self.at, self.at + count
        if self.at > self.stop:
            raise ValueError(f"{count} bytes are missing at byte {start}")
        return start, self.at

    def _text(self, length: int, _: int) -> str:
        if length > MAX_TEXT:
            raise ValueError(f"a text has {length} bytes, but must have at most {MAX_TEXT}")
        start, stop = self._take(length)
        return self.data[start:stop].decode()

    def _bytes(self, length: int, _: int) -> Span:
        return Span(*self._take(length))

    def _array(self, length: int, depth: int) -> list[Any]:
        return [self.value(depth + 1) for _ in range(min(length, self.left + 1))]

    def _map(self, length: int, depth: int) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for _ in range(min(length, self.left + 1)):
            key = self.value(depth + 1)
            if not isinstance(key, str) or key in made:
                raise ValueError("the keys of a map must be texts, each there once")
            made[key] = self.value(depth + 1)
        return made

    def _extension(self, length: int, depth: int) -> Any:
        kind = self._number(">b")
        start, stop = self._take(length)
        if kind != NDARRAY:
            return None
        inner = _Reader(self.file, self.data, start, stop)
        stated = inner.value(depth + 1)
        inner.finish()
        shape, dtype, span = cast("list[Any]", stated)
        if isinstance(dtype, Span):   # a name of bytes
            dtype = self.data[dtype.start : min(dtype.stop, dtype.start + MAX_TEXT)].decode()
        sizes = _sizes(cast("list[Any]", shape))
        if not isinstance(span, Span) or not isinstance(dtype, str):
            raise ValueError("an array must be a shape, the name of an element type and bytes")
        have, width = span.stop - span.start, DTYPES[dtype].bits // 8 if dtype in DTYPES else 0
        if width and math.prod(sizes) * width != have:
            raise ValueError(f"an array of {have} bytes is {dtype}{list(sizes)}")
        return Entry(self.file, dtype, sizes, span.start, span.stop)
