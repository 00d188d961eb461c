"""Tensors that lie in files as they are: mapped, never copied."""

from __future__ import annotations

import math
import mmap
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from trtc.errors import TrtcError
from trtc.ir.errors import nearest
from trtc.ir.op import Array
from trtc.ir.types import DType, TensorType

MAX_RANK = 64   # axes of a NumPy array
POINTER = "help: this is a pointer of Git LFS; `git lfs pull` fetches the file"


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: bytes ``start..stop`` of a file.

    Args:
        dtype: the element type as the file spells it.
        strides: elements from one index to the next of each axis; None where the tensor is dense and row-major.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int
    strides: tuple[int, ...] | None = None


class MappedSource(Mapping[str, Array]):
    """The tensors of some files by key; reading one maps it, and copies nothing.

    Args:
        folder: what the files lie in.
        files: their names.
        homes: the file that each tensor should lie in, where an index says it.
        apart: the files have the same keys: put the file's name, less its ending, and a slash before each.
    """

    dtypes: ClassVar[Mapping[str, DType]]

    def __init__(
        self, folder: Path, files: list[str], homes: Mapping[str, str] | None = None, *, apart: bool = False
    ) -> None:
        self.folder, self.files, self.homes = folder, files, homes or {}
        self.entries: dict[str, Entry] = {}
        self._maps: dict[Path, mmap.mmap] = {}
        for name in files:
            prefix = f"{Path(name).stem}/" if apart else ""
            self.entries.update((prefix + key, entry) for key, entry in self.read(folder / name).items())

    @abstractmethod
    def read(self, file: Path) -> dict[str, Entry]:
        """The entries of one file, each within its length."""

    def type(self, key: str) -> TensorType:
        """The type of a tensor; an error that names it where it is missing or of an element type we do not know."""
        if key not in self.entries:
            every = self.files[0] if len(self.files) == 1 else f"the {len(self.files)} files of {self.folder}"
            where = f"{self.homes[key]}, where the index has it" if key in self.homes else every
            raise TrtcError(f"tensor {key} is missing from {where}", *nearest(key, self.entries))
        entry = self.entries[key]
        if entry.dtype not in self.dtypes:
            known = ", ".join(self.dtypes)
            raise TrtcError(f"{entry.file.name}: tensor {key} is {entry.dtype}, but must be one of {known}")
        return TensorType(self.dtypes[entry.dtype], entry.shape)

    def __getitem__(self, key: str) -> Array:
        dtype, entry = self.type(key).dtype.numpy, self.entries[key]
        count = math.prod(entry.shape) if entry.strides is None else (entry.stop - entry.start) // dtype.itemsize
        flat = np.frombuffer(self._map(entry.file), dtype, count, entry.start)
        if entry.strides is None or not flat.size:
            return flat.reshape(entry.shape)
        steps = [step * dtype.itemsize for step in entry.strides]
        return np.lib.stride_tricks.as_strided(flat, entry.shape, steps, writeable=False)

    def release(self, key: str) -> None:
        """Let the pages of a tensor leave memory; reading it again maps them again."""
        entry = self.entries[key]
        first = -(-entry.start // mmap.PAGESIZE) * mmap.PAGESIZE
        if hasattr(mmap, "MADV_DONTNEED") and first < entry.stop:
            self._map(entry.file).madvise(mmap.MADV_DONTNEED, first, entry.stop - first)

    def place(self, array: Array) -> tuple[Path, int] | None:
        """The file that these very bytes lie in, one after the other, and where; None for what was computed."""
        if array.flags.c_contiguous:
            for file, mapped in self._maps.items():
                first = np.frombuffer(mapped, np.uint8).ctypes.data
                if first <= array.ctypes.data < first + len(mapped):
                    return file, array.ctypes.data - first
        return None

    def _map(self, file: Path) -> mmap.mmap:
        if file not in self._maps:
            with file.open("rb") as handle:
                self._maps[file] = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        return self._maps[file]

    def __contains__(self, key: object) -> bool:
        return key in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)
