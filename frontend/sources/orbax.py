"""Orbax's folders of arrays, each read by TensorStore when it is asked for.

Source: orbax.checkpoint, the format of ``PyTreeCheckpointHandler``: _METADATA names the leaves of the tree; they lie in
zarr arrays by the dotted name, in one OCDBT database or in a folder each.
"""

from __future__ import annotations

import json
import math
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from trtc.errors import MissingPackage, TrtcError
from trtc.frontend.checkpoint import read_json
from trtc.frontend.sources.flax import DTYPES
from trtc.frontend.sources.mapped import Entry, MappedSource
from trtc.ir.op import Array

METADATA, DATABASE = "_METADATA", "manifest.ocdbt"
FREE, SHARE = 1 << 20, 64   # bytes in memory that any folder may ask for, and for each byte that it has


class OrbaxSource(MappedSource):
    """The arrays of a folder by the names that lead to them, with slashes between: ``params/model/norm/scale``.

    Args:
        folder: that holds _METADATA.
    """

    dtypes = DTYPES

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, [])
        self.files: list[str] = [METADATA]
        self._stores: dict[str, Any] = {}
        metadata = read_json(folder / METADATA)
        for name in _leaves(metadata):
            store = self._open(name, zarr3=metadata.get("use_zarr3") is True)
            self._stores["/".join(name)] = store
            self.entries["/".join(name)] = Entry(folder / METADATA, store.dtype.name, tuple(store.shape), 0, 0)
        self._check_size()

    def read(self, file: Path) -> dict[str, Entry]:
        return OrbaxSource(file.parent).entries

    def __getitem__(self, key: str) -> Array:
        self.type(key)
        try:
            return self._stores[key].read().result()
        except (ValueError, OSError) as error:
            raise TrtcError(f"{self.folder}: array {key} cannot be read: {_first_line(error)}") from None

    def release(self, key: str) -> None:
        """Nothing: what was read is the caller's alone."""

    def _check_size(self) -> None:
        """What is not stored reads as a constant, so that a few bytes could stand for more than memory holds."""
        stated = sum(math.prod(store.shape) * store.dtype.numpy_dtype.itemsize for store in self._stores.values())
        have = sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())
        if stated > FREE + SHARE * have:
            want = f"must have at most {SHARE} times as many"
            raise TrtcError(f"{self.folder} has {have} bytes, and its arrays {stated}, but {want}")

    def _open(self, name: tuple[str, ...], *, zarr3: bool) -> Any:
        dotted = ".".join(name)
        if (self.folder / DATABASE).is_file():
            store = {"driver": "ocdbt", "base": f"file://{self.folder.resolve()}/", "path": f"{dotted}/"}
        else:
            store = {"driver": "file", "path": f"{self.folder.resolve()}/{dotted}/"}
        try:
            spec = {"driver": "zarr3" if zarr3 else "zarr", "kvstore": store}
            return _tensorstore().open(spec, open=True, read=True).result()
        except (ValueError, OSError) as error:
            raise TrtcError(f"{self.folder}: array {dotted} cannot be opened: {_first_line(error)}") from None


def _leaves(metadata: dict[str, Any]) -> list[tuple[str, ...]]:
    """The path of each array; scalars and what is not stored are left out."""
    tree: Any = metadata.get("tree_metadata")
    found: list[tuple[str, ...]] = []
    try:
        for leaf in cast("dict[str, Any]", tree).values():
            path = tuple(str(part["key"]) for part in leaf["key_metadata"])
            if any(not part or "/" in part or part in (".", "..") for part in path) or not path:
                raise ValueError(f"{json.dumps(path)} is the path of no array")
            if leaf["value_metadata"]["value_type"] in ("jax.Array", "np.ndarray"):
                found.append(path)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise TrtcError(f"{METADATA} names no tree of arrays: {error}") from None
    return found


def _first_line(error: Exception) -> str:
    return str(error).split(" [source")[0].split("\n")[0][:300]


def _tensorstore() -> Any:
    try:
        return import_module("tensorstore")
    except ImportError:
        raise MissingPackage("tensorstore", "jax", "read Orbax's folders") from None
