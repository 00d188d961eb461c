"""Tensors of safetensors files, mapped in place."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, cast

from trtc.errors import TrtcError
from trtc.frontend.sources.mapped import MAX_RANK, POINTER, Entry, MappedSource
from trtc.ir.types import DType, TensorType, bf16, bool_, f8e4m3, f16, f32, i8, i32, i64, u8

DTYPES: dict[str, DType] = {
    "F32": f32, "F16": f16, "BF16": bf16, "F8_E4M3": f8e4m3, "I8": i8, "U8": u8, "I32": i32, "I64": i64, "BOOL": bool_,
}   # fmt: skip
MAX_HEADER = 100 << 20   # bytes; the limit of the reference implementation
AGAIN = "help: the file is cut short or is no safetensors file; fetch it again"


class SafetensorsSource(MappedSource):
    """The tensors of some safetensors files by key."""

    dtypes = DTYPES

    def read(self, file: Path) -> dict[str, Entry]:
        return read_header(file)


def read_header(file: Path) -> dict[str, Entry]:
    """The entries of one file, checked against its length."""
    try:
        size = file.stat().st_size
        with file.open("rb") as handle:
            first = handle.read(8)
            length = struct.unpack("<Q", first.ljust(8, b"\0"))[0]
            _check_length(file.name, size, first, length)
            header = handle.read(length)
    except OSError as error:
        raise TrtcError(f"{file} cannot be read: {error.strerror}") from None
    try:
        entries = cast("dict[str, Any]", json.loads(header))
        parsed = {k: _entry(file, 8 + length, v) for k, v in entries.items() if k != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise TrtcError(f"{file.name} has a header that is not that of a safetensors file: {reason}", AGAIN) from None
    for key, entry in parsed.items():
        _check(file, key, entry, size)
    return parsed


def _check_length(name: str, size: int, first: bytes, length: int) -> None:
    note = POINTER if first == b"version " else AGAIN
    if len(first) < 8:
        raise TrtcError(f"{name} has {size} bytes, but a safetensors file has 8 at least", note)
    if length > size - 8:
        raise TrtcError(f"{name} has {size} bytes, but its header alone asks for {length}", note)
    if length > MAX_HEADER:
        raise TrtcError(f"{name} has a header of {length} bytes, but must have one of at most {MAX_HEADER}", note)


def _entry(file: Path, data: int, fields: dict[str, Any]) -> Entry:
    start, stop = fields["data_offsets"]
    shape = tuple(fields["shape"])
    if not all(type(n) is int and 0 <= n < 1 << 48 for n in (*shape, start, stop)) or len(shape) > MAX_RANK:
        raise ValueError("shapes and offsets must be whole numbers that a file can have")
    return Entry(file, str(fields["dtype"]), shape, data + start, data + stop)


def _check(file: Path, key: str, entry: Entry, size: int) -> None:
    if entry.stop > size:
        raise TrtcError(f"{file.name} has {size} bytes, but tensor {key} ends at byte {entry.stop}", AGAIN)
    if entry.start > entry.stop:
        raise TrtcError(f"{file.name}: tensor {key} begins at byte {entry.start}, but ends at {entry.stop}", AGAIN)
    if entry.dtype in DTYPES:
        want = TensorType(DTYPES[entry.dtype], entry.shape).nbytes()
        if want != entry.stop - entry.start:
            have = entry.stop - entry.start
            raise TrtcError(f"{file.name}: tensor {key} has {have} bytes, but its shape and dtype ask for {want}")
