"""Arrays that TensorStore reads when they are asked for: those of databases, and compressed ones."""

from __future__ import annotations

import math
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from trtc.errors import MissingPackage, TrtcError
from trtc.frontend.sources.mapped import Entry, MappedSource
from trtc.frontend.sources.tiles import Tile, Tiles
from trtc.ir.op import Array

FREE, SHARE = 1 << 20, 64   # bytes in memory that any folder may ask for, and for each byte that it has


class StoreSource(MappedSource):
    """Tensors that lie in files as they are, and arrays that TensorStore reads.

    Args:
        folder: that holds them.
        what: it holds, for the message where the package is missing.
    """

    def __init__(self, folder: Path, what: str) -> None:
        super().__init__(folder, [])
        self.files: list[str] = []
        self.what, self._stores = what, dict[str, Any]()

    def read(self, file: Path) -> dict[str, Entry]:
        """Nothing: arrays are kept one by one, whatever files they lie in."""
        return {}

    def open_store(self, key: str, driver: str, store: dict[str, Any], name: str) -> None:
        """Keep an array, of which only the header is read."""
        try:
            spec = {"driver": driver, "kvstore": store}
            opened = _tensorstore(self.what).open(spec, open=True, read=True).result()
        except (ValueError, OSError) as error:
            raise TrtcError(f"{self.folder}: array {name} cannot be opened: {_first_line(error)}") from None
        self._stores[key] = opened
        self.entries[key] = Entry(self.folder / name, opened.dtype.name, tuple(opened.shape), 0, 0)

    def split(self, key: str, axis: int) -> None:
        """Keep what lies at each index of an axis, too, as ``key/0``, ``key/1``, ...: read without the rest."""
        entry = self.entries[key]
        shape = (*entry.shape[:axis], *entry.shape[axis + 1 :])
        for n in range(entry.shape[axis]):
            self._stores[f"{key}/{n}"] = self._stores[key][(slice(None),) * axis + (n,)]
            self.entries[f"{key}/{n}"] = replace(entry, shape=shape)

    def rows(self, key: str) -> Tiles:
        """Keep what lies at each index of the first axis, too: boxes that are read without the rest."""
        entry, tiles = self.entries[key], list[Tile]()
        sizes = (1, *entry.shape[1:])
        for n in range(entry.shape[0]):
            tiles.append(Tile(f"{key}/{n}", (n, *(0 for _ in sizes[1:])), sizes))
            self._stores[tiles[-1].key] = self._stores[key][n : n + 1]
            self.entries[tiles[-1].key] = replace(entry, shape=sizes)
        return Tiles(entry.shape, tuple(tiles))

    def __getitem__(self, key: str) -> Array:
        if key not in self._stores:
            return super().__getitem__(key)
        self.type(key)
        try:
            return self._stores[key].read().result()
        except (ValueError, OSError) as error:
            raise TrtcError(f"{self.folder}: array {key} cannot be read: {_first_line(error)}") from None

    def release(self, key: str) -> None:
        """Nothing for what TensorStore read: it is the caller's alone."""
        if key not in self._stores:
            super().release(key)

    def check_size(self) -> None:
        """What is not stored reads as a constant, so that a few bytes could stand for more than memory holds."""
        stated = sum(math.prod(store.shape) * store.dtype.numpy_dtype.itemsize for store in self._stores.values())
        have = sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())
        if stated > FREE + SHARE * have:
            want = f"must have at most {SHARE} times as many"
            raise TrtcError(f"{self.folder} has {have} bytes, and its arrays {stated}, but {want}")


def _first_line(error: Exception) -> str:
    return str(error).split(" [source")[0].split("\n")[0][:300]


def _tensorstore(what: str) -> Any:
    try:
        return import_module("tensorstore")
    except ImportError:
        raise MissingPackage("tensorstore", "jax", f"read {what}") from None
