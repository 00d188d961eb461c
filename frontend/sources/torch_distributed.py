"""Folders of torch.distributed.checkpoint: a pickle says which part of each tensor lies where.

Source: torch/distributed/checkpoint/metadata.py and filesystem.py; a part is an archive of ``torch.save`` of its own,
at an offset in a file.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

from trtc.errors import TrtcError
from trtc.frontend.sources.mapped import MAX_RANK, Entry
from trtc.frontend.sources.tar import Member
from trtc.frontend.sources.tiles import Tile, Tiles
from trtc.frontend.sources.torch_pickle import Function, Inert, Kind, Machine, Record
from trtc.frontend.sources.torch_zip import AGAIN, BYTES, SAFE, read_torch

METADATA = ".metadata"
MODULE = "torch.distributed.checkpoint."
KINDS = {
    (f"{MODULE}metadata", "Metadata"), (f"{MODULE}metadata", "TensorStorageMetadata"),
    (f"{MODULE}metadata", "ChunkStorageMetadata"), (f"{MODULE}metadata", "BytesStorageMetadata"),
    (f"{MODULE}metadata", "TensorProperties"), (f"{MODULE}metadata", "MetadataIndex"),
    (f"{MODULE}filesystem", "_StorageInfo"),
    ("torch.distributed._shard.sharded_tensor.metadata", "TensorProperties"),
}   # fmt: skip
PASSED_OVER = {
    ("torch.serialization", "_get_layout"), ("collections", "OrderedDict"), ("pathlib", "PosixPath"),
    ("pathlib", "PurePosixPath"), ("pathlib._local", "PosixPath"),
}   # fmt: skip
MODULES = ("torch.distributed.", "megatron.core.")
"""Of what is passed over, too: the plans by which ranks saved, say, which Megatron Core keeps."""
MAX_PICKLE, FREE_PICKLE, SHARE = 256 << 20, 1 << 20, 64   # bytes; as of a file of torch.save, of all files together
Parts = Iterator[tuple[str, Tiles | None, dict[str, Entry]]]


def read_distributed(files: Mapping[str, Member], wanted: Callable[[str], bool]) -> Parts:
    """The name of each tensor, how it is made up where it is in several parts, and the entries of the parts.

    Args:
        files: by their names in the folder.
        wanted: whether a tensor is asked for, by its name.
    Errors:
        TrtcError: the pickle asks for anything else than tensors, or parts do not lie in the files.
    """
    member = files[METADATA]
    try:
        root = _fields(_metadata(member, sum(file.size for file in files.values())), "Metadata")
        places = _places(root["storage_data"])
        for name, stored in cast("dict[Any, Any]", root["state_dict_metadata"]).items():
            if isinstance(name, str) and wanted(name) and isinstance(stored, Record) and _is_tensor(stored):
                yield name, *_tensor(name, _fields(stored, "TensorStorageMetadata"), places, files)
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, struct.error) as error:
        raise TrtcError(f"{member.file.name}: {METADATA} cannot be read: {error}", AGAIN) from None


def _metadata(member: Member, total: int) -> Any:
    longest = min(MAX_PICKLE, FREE_PICKLE + total // SHARE)
    return Machine(_find(member), _no_storage).load(member.read(longest))


def _find(member: Member) -> Callable[[str, str], Any]:
    def find(module: str, name: str) -> Any:
        if (module, name) in KINDS:
            return Kind(name)
        if (module, name) in PASSED_OVER or module.startswith(MODULES):
            return Inert(name)
        if module == "torch" and name in BYTES:
            return name
        if (module, name) == ("torch", "Size"):
            return Function(_sizes)
        asked = f"{module}.{name}"
        raise TrtcError(f"{member.file.name} asks for {asked:.200}, but a checkpoint needs tensors alone", SAFE)

    return find


def _no_storage(_: Any) -> Any:
    raise ValueError("it has a persistent id")


def _is_tensor(stored: Record) -> bool:
    return stored.kind == "TensorStorageMetadata"


def _fields(record: Any, kind: str) -> dict[str, Any]:
    state: Any = record.state if isinstance(record, Record) and record.kind == kind else None
    if not isinstance(state, dict):
        raise TypeError(f"something else stands where a {kind} must be")
    return cast("dict[str, Any]", state)


def _places(stored: Any) -> dict[tuple[str, tuple[int, ...]], dict[str, Any]]:
    """Where each part lies, by the tensor's name and the part's start."""
    made: dict[tuple[str, tuple[int, ...]], dict[str, Any]] = {}
    for index, place in cast("dict[Any, Any]", stored).items():
        fields = _fields(index, "MetadataIndex")
        name, start = fields["fqn"], fields.get("offset")
        if not isinstance(name, str):
            raise TypeError("the name of a tensor must be a text")
        if start is not None:
            made[name, _sizes(start)] = _fields(place, "_StorageInfo")
    return made


def _tensor(
    name: str, stored: dict[str, Any], places: Mapping[tuple[str, tuple[int, ...]], dict[str, Any]],
    files: Mapping[str, Member],
) -> tuple[Tiles | None, dict[str, Entry]]:
    shape = _sizes(stored["size"])
    state: Any = stored["properties"].state
    dtype: Any = state[0 if isinstance(state, tuple) else "dtype"]
    tiles: dict[tuple[int, ...], Tile] = {}
    entries: dict[str, Entry] = {}
    for chunk in cast("list[Any]", stored["chunks"]):
        fields = _fields(chunk, "ChunkStorageMetadata")
        start, sizes = _sizes(fields["offsets"]), _sizes(fields["sizes"])
        if not len(start) == len(sizes) == len(shape) or start in tiles:
            raise ValueError(f"tensor {name} has parts that are not of its axes, or twice the same")
        entry = _part(name, places[name, start], files)
        fits = entry.shape == sizes or (entry.strides is None and math.prod(entry.shape) == math.prod(sizes))
        if entry.dtype != dtype or not fits:
            raise ValueError(f"tensor {name} is {dtype}, but a part of it is {entry.dtype}{list(entry.shape)}")
        if start == (0,) * len(shape) and sizes == shape:
            return None, {name: replace(entry, shape=sizes)}   # all of it; others would be of no use
        tiles[start] = Tile(f"{name}/{len(tiles)}", start, sizes)
        entries[tiles[start].key] = replace(entry, shape=sizes)
    if not tiles:
        raise ValueError(f"tensor {name} has no parts")
    return Tiles(shape, tuple(tiles.values())), entries


def _part(name: str, place: Mapping[str, Any], files: Mapping[str, Member]) -> Entry:
    path, offset, length = (place[key] for key in ("relative_path", "offset", "length"))
    if place.get("transform_descriptors"):
        raise ValueError(f"tensor {name} is stored in another form than torch.save's")
    _sizes((offset, length))
    if path not in files:
        raise ValueError(f"{path}, which holds tensor {name}, is missing")
    member = files[path]
    if offset + length > member.size:
        raise ValueError(f"{path} has {member.size} bytes, but tensor {name} ends at byte {offset + length}")
    value = read_torch(member.file, member.start + offset, length)
    if not isinstance(value, Entry):
        raise TypeError(f"{path} holds a {type(value).__name__} where tensor {name} must be")
    return value


def _sizes(values: Any) -> tuple[int, ...]:
    if type(values) is not tuple or len(cast("tuple[Any, ...]", values)) > MAX_RANK:
        raise ValueError("sizes and starts must be of whole numbers, one an axis")
    if not all(type(n) is int and 0 <= n < 1 << 48 for n in cast("tuple[Any, ...]", values)):
        raise ValueError("sizes and starts must be whole numbers that a file can have")
    return cast("tuple[int, ...]", values)
