"""Files of tensors that are written in parallel, piece by piece, each byte once, and gone on with after a stop."""

from __future__ import annotations

import errno
import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np

from trtc.frontend.sources.mapped import MappedSource
from trtc.frontend.sources.safetensors import DTYPES
from trtc.ir.materialize import materialize, weights_of
from trtc.ir.op import Array, Value
from trtc.ir.ops import Concat

CODES = {dtype.name: code for code, dtype in DTYPES.items()}
NOT_BETWEEN = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)   # one of them is no plain file
BLOCK = 1 << 20   # bytes that are written, or compared with what is there, at a time: they stay in the cache


@dataclass(frozen=True)
class Piece:
    """The value whose bytes begin at this one of a file."""

    file: Path
    start: int
    value: Value


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
        pieces += _pieces(path, at, value)
        at += value.type.nbytes()
    return TensorFile(path, header, tuple(pieces), at)


def _pieces(path: Path, start: int, value: Value) -> Iterator[Piece]:
    """A value, or the parts that lie in it one after the other: they need not be joined in memory."""
    sizes = [size for size in value.shape if isinstance(size, int)]
    if not isinstance(value, Concat) or prod(sizes[: value.axis]) > 1:
        yield Piece(path, start, value)
        return
    for part in value.parts:
        yield from _pieces(path, start, part)
        start += part.type.nbytes()


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
        pieces = [piece for file in files for piece in file.pieces]
        with ThreadPoolExecutor(workers) as pool:
            try:
                for _ in pool.map(self._put, pieces):
                    pass
                for _ in pool.map(_sync, [file.path for file in files]):
                    pass
            finally:
                pool.shutdown(cancel_futures=True)

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
        home = None if self.resume else self.source.place(array)
        if home and copied(*home, piece.file, piece.start, array.nbytes):
            return self._count(array.nbytes, kept=False)
        rows = max(1, BLOCK // max(1, array[:1].nbytes))
        with piece.file.open("r+b", buffering=0) as file:
            file.seek(piece.start)
            for first in range(0, len(array), rows):
                block = _bytes(array[first : first + rows])
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


def _bytes(array: Array) -> Array:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def write_all(file: BinaryIO, block: Array) -> None:
    """All of a block: one call may take a part of it, as when the disk fills up."""
    left = block.data
    while left:
        left = left[file.write(left) :]


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
