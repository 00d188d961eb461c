"""Ops that move data, and those that ask for sizes."""

from __future__ import annotations

import numpy as np

from trtc.backend.onnx.lower.registry import Emitter, lower
from trtc.ir import ops as ir


@lower(ir.Reshape)
def reshape(op: ir.Reshape, to: Emitter) -> str:
    return to.add("Reshape", to[op.x], to.shape(op.sizes, op.x.shape))


@lower(ir.Broadcast)
def broadcast(op: ir.Broadcast, to: Emitter) -> str:
    return to.add("Expand", to[op.x], to.shape(op.sizes))


@lower(ir.Transpose)
def transpose(op: ir.Transpose, to: Emitter) -> str:
    return to.add("Transpose", to[op.x], perm=list(op.axes))


@lower(ir.Slice)
def slice_(op: ir.Slice, to: Emitter) -> str:
    start, stop, axis = (to.literal([n]) for n in (op.start, op.start + op.size, op.axis))
    return to.add("Slice", to[op.x], start, stop, axis)


@lower(ir.Concat)
def concat(op: ir.Concat, to: Emitter) -> str:
    return to.add("Concat", *(to[p] for p in op.parts), axis=op.axis)


@lower(ir.Gather)
def gather(op: ir.Gather, to: Emitter) -> str:
    """GatherND looks up right behind the shared axes, so the axis moves there first and its result back after."""
    if not op.batch:
        return to.add("Gather", to[op.x], to[op.indices], axis=op.axis)
    rank, axis, batch = op.x.type.rank, op.axis, op.batch
    moved = [*range(batch), axis, *(a for a in range(batch, rank) if a != axis)]
    x = to[op.x] if axis == batch else to.add("Transpose", to[op.x], perm=moved)
    indices = to.add("Cast", to.add("Unsqueeze", to[op.indices], to.literal([-1])), to=to.onnx.TensorProto.INT64)
    y = to.add("GatherND", x, indices, batch_dims=batch)
    if axis == batch:
        return y
    looked_up = op.indices.type.rank - batch
    middle = range(batch + looked_up, looked_up + axis)
    back = [*range(batch), *middle, *range(batch, batch + looked_up), *range(looked_up + axis, op.type.rank)]
    return to.add("Transpose", y, perm=back)


@lower(ir.Embedding)
def embedding(op: ir.Embedding, to: Emitter) -> str:
    return to.add("Gather", to[op.table], to[op.ids])


@lower(ir.Iota)
def iota(op: ir.Iota, to: Emitter) -> str:
    count = to.add("Cast", to.add("Squeeze", to.size(op.size)), to=to.onnx.TensorProto.INT32)
    return to.add("Range", to.literal(0, np.int32), count, to.literal(1, np.int32))


@lower(ir.SizeOf)
def size_of(op: ir.SizeOf, to: Emitter) -> str:
    return to.add("Cast", to.add("Squeeze", to.size(op.x.shape[op.axis])), to=to.onnx.TensorProto.INT32)
