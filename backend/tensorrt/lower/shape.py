"""Moving data: shapes, parts, and looking up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trtc.backend.tensorrt.lower.registry import lower
from trtc.ir.ops import Broadcast, Concat, Gather, Reshape, Slice, Transpose
from trtc.ir.types import Size

if TYPE_CHECKING:
    from trtc.backend.tensorrt.emit import Emitter


@lower(Reshape)
def reshape(op: Reshape, emit: Emitter) -> Any:
    return emit.reshape(emit[op.x], op.x.shape, op.sizes)


@lower(Transpose)
def transpose(op: Transpose, emit: Emitter) -> Any:
    return emit.add("shuffle", emit[op.x], first_transpose=op.axes)


@lower(Slice)
def slice_(op: Slice, emit: Emitter) -> Any:
    rank = op.type.rank
    start = tuple(op.start if axis == op.axis else 0 for axis in range(rank))
    return _part(emit, emit[op.x], start, op.shape, (1,) * rank)


@lower(Broadcast)
def broadcast(op: Broadcast, emit: Emitter) -> Any:
    """a slice that does not move along the axes to repeat"""
    rank = op.type.rank
    x = emit.lifted(op.x, rank)
    have = (1,) * (rank - op.x.type.rank) + op.x.shape
    return _part(emit, x, (0,) * rank, op.sizes, tuple(int(a == b) for a, b in zip(have, op.sizes, strict=True)))


def _part(emit: Emitter, x: Any, start: tuple[int, ...], shape: tuple[Size, ...], stride: tuple[int, ...]) -> Any:
    if all(isinstance(s, int) for s in shape):
        return emit.add("slice", x, start, shape, stride)
    return emit.add("slice", x, start, (0,) * len(shape), stride, inputs={2: emit.shapes.tensor(shape)})


@lower(Concat)
def concat(op: Concat, emit: Emitter) -> Any:
    return emit.add("concatenation", [emit[part] for part in op.parts], axis=op.axis)


@lower(Gather)
def gather(op: Gather, emit: Emitter) -> Any:
    mode = emit.trt.GatherMode.DEFAULT
    return emit.add("gather_v2", emit[op.x], emit[op.indices], mode, axis=op.axis, num_elementwise_dims=op.batch)
