"""Distributed checkpoints of Megatron's names, written by torch.distributed.checkpoint itself, or by TensorStore.

How tensors are stacked and cut follows megatron/core/dist_checkpointing: those of all layers, and of all experts, may
be one tensor; the parts are those of tensor-parallel ranks and pipeline stages.
"""

from __future__ import annotations

import itertools
import re
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

torch: Any = import_module("torch")
checkpoint: Any = import_module("torch.distributed.checkpoint")
planner: Any = import_module("torch.distributed.checkpoint.planner")
default_planner: Any = import_module("torch.distributed.checkpoint.default_planner")
metadata: Any = import_module("torch.distributed.checkpoint.metadata")


def stacked(state: dict[str, Any]) -> dict[str, Any]:
    """Tensors of layers and of experts in one each: ``decoder.layers.mlp.experts.experts.linear_fc1.weight``."""
    groups: dict[str, dict[tuple[int, ...], Any]] = {}
    for key, tensor in state.items():
        if not isinstance(tensor, torch.Tensor):
            continue
        name = re.sub(r"\.local_experts\.\d+\.", ".experts.", re.sub(r"\.layers\.\d+\.", ".layers.", key))
        index = tuple(int(n) for n in re.findall(r"\.(?:layers|local_experts)\.(\d+)\.", key))
        groups.setdefault(name, {})[index] = tensor
    made: dict[str, Any] = {}
    for name, members in groups.items():
        (first, *_), last = members, max(members)
        counts = tuple(n + 1 for n in last)
        every = [members[index] for index in itertools.product(*map(range, counts))]
        made[name] = torch.stack(every).reshape(*counts, *members[first].shape) if counts else every[0]
    return made


def cuts(shape: tuple[int, ...], parts: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Starts and sizes of a grid: ``parts`` along each axis that they divide, the last axis left whole."""
    counts = [parts if n % parts == 0 and axis < max(1, len(shape) - 1) else 1 for axis, n in enumerate(shape)]
    sizes = tuple(n // count for n, count in zip(shape, counts, strict=True))
    return [
        (tuple(i * size for i, size in zip(index, sizes, strict=True)), sizes)
        for index in itertools.product(*map(range, counts))
    ]


Planner: Any = default_planner.DefaultSavePlanner


class InParts(Planner):
    """A plan that stores tensors as so many ranks would."""

    def __init__(self, parts: int) -> None:
        Planner.__init__(self)
        self.parts = parts

    def create_local_plan(self) -> Any:
        plan: Any = Planner.create_local_plan(self)
        items: list[Any] = []
        for item in plan.items:
            if item.tensor_data is None or self.parts == 1:
                items.append(item)
                continue
            whole = item.tensor_data
            for n, (start, sizes) in enumerate(cuts(tuple(whole.size), self.parts)):
                chunk = metadata.ChunkStorageMetadata(torch.Size(start), torch.Size(sizes))
                data = planner.TensorWriteData(chunk, whole.properties, whole.size)
                index = metadata.MetadataIndex(item.index.fqn, torch.Size(start), n)
                items.append(planner.WriteItem(index, planner.WriteItemType.SHARD, tensor_data=data))
        self.plan = import_module("dataclasses").replace(plan, items=items)
        return self.plan

    def lookup_object(self, index: Any) -> Any:
        return self.state_dict[index.fqn]

    def resolve_data(self, write_item: Any) -> Any:
        value: Any = Planner.resolve_data(self, write_item)
        if write_item.type != planner.WriteItemType.SHARD:
            return value
        chunk = write_item.tensor_data.chunk
        box = tuple(slice(at, at + size) for at, size in zip(chunk.offsets, chunk.sizes, strict=True))
        return value[box].clone()


def write_torch(state: dict[str, Any], folder: Path, parts: int = 1) -> None:
    """The folder that torch.distributed.checkpoint saves; tensors in parts, and files of several threads."""
    more = {
        "optimizer.state.exp_avg.x": torch.ones(3), "rng_state/shard_0_1": b"abc",
        "decoder.layers.mlp.linear_fc1._extra_state/shard_0_2": b"def",
    }   # fmt: skip
    writer = checkpoint.FileSystemWriter(folder, thread_count=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checkpoint.save({**state, **more}, storage_writer=writer, planner=InParts(parts), no_dist=True)
    (folder / "metadata.json").write_text('{"sharded_backend": "torch_dist", "sharded_backend_version": 1}')
    torch.save({"checkpoint_version": 3.0}, folder / "common.pt")


def write_zarr(state: dict[str, Any], folder: Path, compressor: dict[str, Any] | None, parts: int = 1) -> None:
    """A folder an array, in chunks that need not divide it."""
    tensorstore: Any = import_module("tensorstore")
    for key, tensor in state.items():
        array = tensor.float().numpy().astype(np.dtype(str(tensor.dtype).removeprefix("torch.")))
        chunks = [max(1, -(-n // parts)) + (parts > 1 and axis == 0) for axis, n in enumerate(array.shape)]
        store = tensorstore.open({
            "driver": "zarr", "kvstore": {"driver": "file", "path": f"{folder / key}/"},
            "metadata": {"compressor": compressor, "chunks": chunks},
        }, create=True, dtype=array.dtype.name, shape=array.shape).result()   # fmt: skip
        store.write(array).result()
    (folder / "metadata.json").write_text('{"sharded_backend": "zarr", "sharded_backend_version": 1}')
