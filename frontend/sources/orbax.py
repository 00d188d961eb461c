"""Orbax's folders of arrays, each read by TensorStore when it is asked for.

Source: orbax.checkpoint, the format of ``PyTreeCheckpointHandler``: _METADATA names the leaves of the tree; they lie in
zarr arrays by the dotted name, in one OCDBT database or in a folder each.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from trtc.errors import TrtcError
from trtc.frontend.checkpoint import read_json
from trtc.frontend.sources.flax import DTYPES
from trtc.frontend.sources.stores import StoreSource

METADATA, DATABASE = "_METADATA", "manifest.ocdbt"


class OrbaxSource(StoreSource):
    """The arrays of a folder by the names that lead to them, with slashes between: ``params/model/norm/scale``.

    Args:
        folder: that holds _METADATA.
    """

    dtypes = DTYPES

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "Orbax's folders")
        self.files: list[str] = [METADATA]
        metadata = read_json(folder / METADATA)
        for name in _leaves(metadata):
            self._open(name, zarr3=metadata.get("use_zarr3") is True)
        self.check_size()

    def _open(self, name: tuple[str, ...], *, zarr3: bool) -> None:
        dotted = ".".join(name)
        if (self.folder / DATABASE).is_file():
            store = {"driver": "ocdbt", "base": f"file://{self.folder.resolve()}/", "path": f"{dotted}/"}
        else:
            store = {"driver": "file", "path": f"{self.folder.resolve()}/{dotted}/"}
        self.open_store("/".join(name), "zarr3" if zarr3 else "zarr", store, dotted)


def _leaves(metadata: dict[str, Any]) -> list[tuple[str, ...]]:
    """The path of each array; scalars and what is not stored are left out."""
    tree: Any = metadata.get("tree_metadata")
    found: list[tuple[str, ...]] = []
    try:
        for leaf in cast("dict[str, Any]", tree).values():
            path = tuple(str(part["key"]) for part in leaf["key_metadata"])
            parts = [inner for part in path for inner in part.split("/")]   # a key may be a path: transformer/layer_0
            if any(part in ("", ".", "..") for part in parts) or not path:
                raise ValueError(f"{json.dumps(path)} is the path of no array")
            if leaf["value_metadata"]["value_type"] in ("jax.Array", "np.ndarray"):
                found.append(path)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise TrtcError(f"{METADATA} names no tree of arrays: {error}") from None
    return found
