"""What ranks compute together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trtc.backend.tensorrt.lower.registry import lower
from trtc.ir.ops import AllGather, AllReduce, Collective, ReduceScatter

if TYPE_CHECKING:
    from trtc.backend.tensorrt.emit import Emitter


@lower(AllReduce)
def all_reduce(op: AllReduce, emit: Emitter) -> Any:
    return _exchanged(op, emit, emit[op.x], "ALL_REDUCE", "SUM")


@lower(AllGather)
def all_gather(op: AllGather, emit: Emitter) -> Any:
    return _along(op, emit, "ALL_GATHER", "NONE")


@lower(ReduceScatter)
def reduce_scatter(op: ReduceScatter, emit: Emitter) -> Any:
    return _along(op, emit, "REDUCE_SCATTER", "SUM")


def _along(op: AllGather | ReduceScatter, emit: Emitter, kind: str, reduction: str) -> Any:
    """the layer joins and divides the first axis alone"""
    order = (op.axis, *(a for a in range(op.type.rank) if a != op.axis))
    if not op.axis:
        return _exchanged(op, emit, emit[op.x], kind, reduction)
    led = emit.add("shuffle", emit[op.x], part="lead", first_transpose=order)
    y = _exchanged(op, emit, led, kind, reduction)
    back = tuple(order.index(axis) for axis in range(op.type.rank))
    return emit.add("shuffle", y, part="back", first_transpose=back)


def _exchanged(op: Collective, emit: Emitter, x: Any, kind: str, reduction: str) -> Any:
    trt = emit.trt
    kinds = getattr(trt.CollectiveOperation, kind), getattr(trt.ReduceOperation, reduction)
    return emit.add("dist_collective", x, *kinds, -1, list(op.group), num_ranks=len(op.group))
