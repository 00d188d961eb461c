"""Megatron Core's distributed checkpoints: whole tensors, in parts that torch.distributed.checkpoint or zarr keep.

Source: megatron/core/dist_checkpointing: metadata.json names the backend, torch_dist or zarr.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trtc.errors import TrtcError
from trtc.frontend.sources.mapped import Entry
from trtc.frontend.sources.stores import StoreSource
from trtc.frontend.sources.tar import Member
from trtc.frontend.sources.tiles import Tiles
from trtc.frontend.sources.torch_distributed import METADATA, read_distributed
from trtc.frontend.sources.torch_zip import DTYPES
from trtc.frontend.sources.zarr import ARRAY, read_chunks, read_header

HOMES = ("model_weights/", "weights/", "")   # of NeMo 1, NeMo 2, Megatron Bridge
OTHERS = ("optimizer.", "rng_state", "rerun_state")
"""What names of no weights begin with."""
STACKED = "decoder.layers."   # tensors of all layers, one at a time along the first axis


class DistributedSource(StoreSource):
    """The tensors of a distributed checkpoint; ``tiles`` says how those in several parts are made up.

    Args:
        path: of the archive or folder that it is in.
        members: what that holds.
        home: what the names of the checkpoint's own files begin with.
    """

    dtypes = DTYPES

    def __init__(self, path: Path, members: Mapping[str, Member], home: str) -> None:
        super().__init__(path, "compressed arrays of zarr")
        self.home, self.tiles = home, dict[str, Tiles]()
        files = {name.removeprefix(home): member for name, member in members.items() if name.startswith(home)}
        if METADATA in files:
            self.files.append(METADATA)
            for name, tiles, entries in read_distributed(files, is_weight):
                self._keep(name, tiles, entries)
        else:
            self._arrays(files)

    def _keep(self, name: str, tiles: Tiles | None, entries: dict[str, Entry]) -> None:
        self.entries |= entries
        if tiles:
            self.tiles[name] = tiles

    def _arrays(self, files: Mapping[str, Member]) -> None:
        """Arrays of zarr; those whose chunks are compressed are TensorStore's to read."""
        for file, member in files.items():
            name, _, last = file.rpartition("/")
            if last != ARRAY or not is_weight(name):
                continue
            self.files.append(name)
            array = read_header(member, name)
            if array.plain:
                self._keep(name, *read_chunks(name, array, files))
            elif not self.folder.is_dir():
                unpack = f"help: unpack it, and give the folder: mkdir FOLDER && tar -xf {self.folder.name} -C FOLDER"
                raise TrtcError(f"{self.folder.name}: array {name} is compressed, but must lie in a folder", unpack)
            else:
                store = {"driver": "file", "path": f"{member.file.parent.resolve()}/"}
                self.open_store(name, "zarr", store, name)
        compressed = [name for name, entry in self.entries.items() if entry.shape and entry.start == entry.stop]
        self.check_size()
        for name in compressed:
            if STACKED in name:
                self.tiles[name] = self.rows(name)


def is_weight(name: str) -> bool:
    """Whether a name is that of a model's tensor: not of an optimizer's, of random numbers or of scales."""
    return not name.startswith(OTHERS) and "_extra_state" not in name


def distributed_home(members: Mapping[str, Member]) -> str | None:
    """What the names of a distributed checkpoint's files begin with; None where there is none."""
    for home in HOMES:
        if f"{home}{METADATA}" in members or (home and any(_is_array(name, home) for name in members)):
            return home
    return None


def _is_array(name: str, home: str) -> bool:
    return name.startswith(home) and name.endswith(f"/{ARRAY}")
