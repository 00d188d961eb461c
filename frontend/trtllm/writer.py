"""Files of tensors that are written in parallel, piece by piece, each byte once, and gone on with after a stop."""

from __future__ import annotations

import errno
import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from threading import Event, Lock
from typing import BinaryIO

import numpy as np

from trtc.frontend.sources.mapped import MappedSource
from trtc.frontend.sources.safetensors import DTYPES
from trtc.ir.materialize import materialize, weights_of
from trtc.ir.op import Array, Value
from trtc.ir.ops import Cast, Concat
from trtc.ir.types import DType, TensorType

CODES = {dtype.name: code for code, dtype in DTYPES.items()}
NOT_BETWEEN = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)   # one of them is no plain file
BLOCK = 1 << 18   # bytes that are written, or compared with what is there, at a time: they stay in the cache
PAUSE = 0.05   # seconds from one flush to the next


@dataclass(frozen=True)
class Piece:
    """The value whose bytes begin at this one of a file.

    Args:
        dtype: what it is cast to as it is written.
    """

    file: Path
    start: int
    value: Value
    dtype: DType


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file to be: its header and what follows."""

    path: Path
    header: bytes
    pieces: tuple[Piece, ...]
    size: int


def tensor_file(path: Path, tensors: Mapping[str, Value]) -> TensorFile:
    """The file of some constant expressions; wider elements come first, so that all lie aligned."""
    ordered = sorted(tensors.items(), key=lambda item: -item[1].dtype.bits)
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, value in ordered:
        start, end = end, end + value.type.nbytes()
        entries[name] = {"dtype": CODES[value.dtype.name], "shape": value.shape, "data_offsets": (start, end)}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = struct.pack("<Q", len(text)) + text
    pieces, at = list[Piece](), len(header)
    for _, value in ordered:
        pieces += _apart(Piece(path, at, value, value.dtype))
        at += value.type.nbytes()
    return TensorFile(path, header, tuple(pieces), at)


def _apart(piece: Piece) -> Iterator[Piece]:
    """A piece, or the parts that lie in it one after the other: they need not be cast or joined in memory."""
    value = piece.value
    if isinstance(value, Cast) and value.dtype == piece.dtype:
        value = value.x
    sizes = [size for size in value.shape if isinstance(size, int)]
    if not isinstance(value, Concat) or prod(sizes[: value.axis]) > 1:
        yield replace(piece, value=value)
        return
    start = piece.start
    for part in value.parts:
        yield from _apart(replace(piece, start=start, value=part))
        start += TensorType(piece.dtype, part.shape).nbytes()


class Writer:
    """Writes files in threads.

    Args:
        source: the tensors that the values read.
        resume: compare with what lies in the files, and write only what differs.
        report: told of the bytes done.
    """

    def __init__(self, source: MappedSource, *, resume: bool, report: Callable[[int], None]) -> None:
        self.source, self.resume, self.report = source, resume, report
        self.kept = self._done = 0   # bytes
        self._lock = Lock()

    def write(self, files: list[TensorFile], workers: int) -> None:
        """Write all; they are on the disk when this returns."""
        for file in files:
            self._begin(file)
        pieces = sorted((piece for file in files for piece in file.pieces), key=self._home)
        written = Event()
        with ThreadPoolExecutor(workers + 1) as pool:
            flushed = pool.submit(_flush, [file.path for file in files], written)
            try:
                for _ in pool.map(self._put, pieces):
                    pass
            finally:
                written.set()
                pool.shutdown(wait=False, cancel_futures=True)
            flushed.result()

    def _home(self, piece: Piece) -> tuple[str, int]:
        """Where the first of what a piece is made of lies: in this order the source is read once, for all ranks."""
        entries = [self.source.entries[key] for key in weights_of(piece.value)]
        return (str(entries[0].file), entries[0].start) if entries else ("", 0)

    def _begin(self, file: TensorFile) -> None:
        """The header, and room for the rest; what lies there stays where it is of the same header."""
        if self.resume and file.path.is_file():
            with file.path.open("rb") as old:
                if old.read(len(file.header)) == file.header and file.path.stat().st_size == file.size:
                    return self._count(len(file.header), kept=True)
        with file.path.open("wb") as new:
            new.write(file.header)
            new.truncate(file.size)
        return self._count(len(file.header), kept=False)

    def _put(self, piece: Piece) -> None:
        array, keys = materialize(piece.value, self.source, self.source.release), weights_of(piece.value)
        as_it_is = piece.value.dtype == piece.dtype and not self.resume
        home = self.source.place(array) if as_it_is else None
        if home and copied(*home, piece.file, piece.start, array.nbytes):
            return self._count(array.nbytes, kept=False)
        with piece.file.open("r+b", buffering=0) as file:
            file.seek(piece.start)
            for part in _blocks(array):
                block = _bytes(part, piece.dtype)
                kept = self.resume and self._matches(file, block)
                if not kept:
                    write_all(file, block)
                for key in keys:
                    self.source.release(key)
                self._count(block.size, kept=kept)
        return None

    def _matches(self, file: BinaryIO, block: Array) -> bool:
        """Whether these bytes lie there already; the file stands behind them if so, and where it stood if not."""
        found = file.read(block.size) or b""
        if len(found) == block.size and np.array_equal(np.frombuffer(found, np.uint8), block):
            return True
        file.seek(-len(found), os.SEEK_CUR)
        return False

    def _count(self, size: int, *, kept: bool) -> None:
        with self._lock:
            self._done += size
            self.kept += size if kept else 0
            self.report(self._done)


def copied(source: Path, first: int, file: Path, start: int, size: int) -> bool:
    """Copy bytes from one file into another inside the kernel; False where it cannot between these two."""
    if not hasattr(os, "copy_file_range"):
        return False
    with source.open("rb") as old, file.open("r+b") as new:
        done = 0
        while done < size:
            try:
                count = os.copy_file_range(old.fileno(), new.fileno(), size - done, first + done, start + done)
            except OSError as error:
                if error.errno in NOT_BETWEEN:
                    return False
                raise
            if not count:
                return False
            done += count
    return True


def _blocks(array: Array) -> Iterator[Array]:
    """The parts of an array that lie one after the other in its bytes, none larger than a block, or than a row."""
    if array.ndim > 1 and array[:1].nbytes > BLOCK:
        for row in array:
            yield from _blocks(row)
        return
    rows = max(1, BLOCK // max(1, array[:1].nbytes))
    for first in range(0, len(array), rows):
        yield array[first : first + rows]


def _bytes(array: Array, dtype: DType) -> Array:
    with np.errstate(all="ignore"):   # what is too large becomes infinite
        return array.astype(dtype.numpy, order="C", copy=False).reshape(-1).view(np.uint8)


def write_all(file: BinaryIO, block: Array) -> None:
    """All of a block: one call may take a part of it, as when the disk fills up."""
    left = block.data
    while left:
        left = left[file.write(left) :]


def _flush(paths: list[Path], written: Event) -> None:
    """Send files to the disk while others write them: little is left to send when all is written."""
    while True:
        last = written.wait(PAUSE)
        for path in paths:
            with path.open("rb") as file:
                os.fsync(file.fileno())
        if last:
            return
