"""Folders of zarr 2, a folder an array: chunks that are stored as they are, mapped in place.

Source: the specification of zarr 2; chunks at the end of an axis are as large as all others.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from trtc.errors import TrtcError
from trtc.frontend.sources.mapped import MAX_RANK, Entry
from trtc.frontend.sources.tar import Member
from trtc.frontend.sources.tiles import Tile, Tiles

ARRAY = ".zarray"
DTYPES = {
    "<f4": "float32", "<f2": "float16", "bfloat16": "bfloat16", "|i1": "int8", "|u1": "uint8", "<i4": "int32",
    "<i8": "int64", "|b1": "bool",
}   # fmt: skip
WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1, "int32": 4, "int64": 8, "bool": 1}
MAX_HEADER = 1 << 16   # bytes
MAX_CHUNKS = 1 << 20


@dataclass(frozen=True)
class Zarr:
    """What .zarray says, checked.

    Args:
        plain: whether chunks are stored as they are.
    """

    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    plain: bool
    separator: str


def read_header(member: Member, name: str) -> Zarr:
    """What the .zarray of an array says."""
    try:
        stated: Any = json.loads(member.read(MAX_HEADER))
        shape, chunks = (_sizes(stated[key]) for key in ("shape", "chunks"))
        if stated["zarr_format"] != 2 or len(shape) != len(chunks) or not all(chunks):
            raise ValueError("it is of no array of zarr 2")
        plain = stated["compressor"] is None and not stated.get("filters") and (stated["order"] == "C")
        separator = stated.get("dimension_separator", ".")
        if separator not in (".", "/"):
            raise ValueError("dimension_separator must be . or /")
        return Zarr(DTYPES.get(str(stated["dtype"]), str(stated["dtype"])), shape, chunks, plain, separator)
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise TrtcError(f"{ARRAY} of array {name} cannot be read: {error}") from None


def read_chunks(name: str, array: Zarr, files: Mapping[str, Member]) -> tuple[Tiles | None, dict[str, Entry]]:
    """How an array is made up of its chunks, and their entries; one that is all of it is the array itself.

    Args:
        files: by their names in the folder of all arrays.
    Errors:
        TrtcError: a chunk is missing, or not of the size that all have.
    """
    counts = tuple(-(-size // chunk) for size, chunk in zip(array.shape, array.chunks, strict=True))
    if math.prod(counts) > min(MAX_CHUNKS, len(files)):
        raise TrtcError(f"array {name} has {math.prod(counts)} chunks, but there are {len(files)} files")
    tiles, entries = list[Tile](), dict[str, Entry]()
    for index in itertools.product(*map(range, counts)):
        place = array.separator.join(map(str, index)) or "0"
        member = files.get(f"{name}/{place}")
        want = math.prod(array.chunks) * WIDTHS.get(array.dtype, 0)
        if member is None:
            raise TrtcError(f"chunk {place} of array {name} is missing", "help: fetch the checkpoint again")
        if want and member.size != want:
            raise TrtcError(f"chunk {place} of array {name} has {member.size} bytes, but must have {want}")
        start = tuple(i * size for i, size in zip(index, array.chunks, strict=True))
        sizes = tuple(min(size, n - at) for size, n, at in zip(array.chunks, array.shape, start, strict=True))
        entry = Entry(member.file, array.dtype, array.chunks, member.start, member.start + member.size)
        if array.chunks == array.shape:
            return None, {name: entry}
        tiles.append(Tile(f"{name}/{place}", start, sizes))
        entries[tiles[-1].key] = entry
    return Tiles(array.shape, tuple(tiles)), entries


def _sizes(values: Any) -> tuple[int, ...]:
    numbers: list[Any] = cast("list[Any]", values) if isinstance(values, list) else [None]
    if len(numbers) > MAX_RANK or not all(type(n) is int and 0 <= n < 1 << 48 for n in numbers):
        raise ValueError("sizes must be whole numbers that a file can have")
    return tuple(numbers)
