"""Reductions along one axis, and the softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trtc.backend.tensorrt.bindings import dtype_of
from trtc.backend.tensorrt.lower.registry import lower
from trtc.ir.op import Op
from trtc.ir.ops import Reduce, ReduceMax, ReduceMean, ReduceSum, Softmax

if TYPE_CHECKING:
    from trtc.backend.tensorrt.emit import Emitter

REDUCE: dict[type[Op], str] = {ReduceSum: "SUM", ReduceMean: "AVG", ReduceMax: "MAX"}


@lower(*REDUCE)
def reduce(op: Reduce, emit: Emitter) -> Any:
    """sums and means of narrow floats in f32, as the op promises"""
    x, kind = emit[op.x], getattr(emit.trt.ReduceOperation, REDUCE[type(op)])
    widens = op.dtype.is_float and op.dtype.bits < 32 and not isinstance(op, ReduceMax)
    if widens:
        x = emit.add("cast", x, emit.trt.float32, part="widen")
    y = emit.add("reduce", x, kind, 1 << op.axis, True)
    return emit.add("cast", y, dtype_of(emit.trt, op.dtype), part="narrow") if widens else y


@lower(Softmax)
def softmax(op: Softmax, emit: Emitter) -> Any:
    return emit.add("softmax", emit[op.x], axes=1 << op.axis)
