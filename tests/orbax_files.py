"""Folders of arrays as Orbax lays them out: _METADATA and zarr, written by TensorStore."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any


def write_orbax(arrays: dict[tuple[str, ...], Any], folder: Path, *, database: bool = True) -> None:
    """Arrays by the keys that lead to them, in one database or in a folder each."""
    tensorstore: Any = import_module("tensorstore")
    folder.mkdir(parents=True)
    for path, array in arrays.items():
        name = ".".join(path)
        store = {"driver": "file", "path": f"{folder / name}/"}
        if database:
            store = {"driver": "ocdbt", "base": f"file://{folder}/", "path": f"{name}/"}
        opened = tensorstore.open(
            {"driver": "zarr", "kvstore": store}, create=True, dtype=array.dtype.name, shape=array.shape
        ).result()
        opened.write(array).result()
    leaves = {
        str(path): {"key_metadata": [{"key": key, "key_type": 2} for key in path],
                    "value_metadata": {"value_type": "jax.Array", "skip_deserialize": False}}
        for path in arrays
    }   # fmt: skip
    stated = {"tree_metadata": leaves, "use_zarr3": False}
    (folder / "_METADATA").write_text(json.dumps(stated))
