"""Values made of sizes. (Inputs and constants are declared before any op is lowered.)"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trtc.backend.tensorrt.lower.registry import lower
from trtc.ir.ops import Iota, SizeOf
from trtc.ir.types import i32

if TYPE_CHECKING:
    from trtc.backend.tensorrt.emit import Emitter


@lower(Iota)
def iota(op: Iota, emit: Emitter) -> Any:
    first, step = emit.number(0, i32, 0), emit.number(1, i32, 1)
    inputs = {0: emit.shapes.tensor((op.size,)), 1: first, 2: step}
    dtype = (emit.trt.int32,) if emit.types.strong else ()
    return emit.add("fill", (0,), emit.trt.FillOperation.LINSPACE, *dtype, inputs=inputs)


@lower(SizeOf)
def size_of(op: SizeOf, emit: Emitter) -> Any:
    size = op.x.shape[op.axis]
    if isinstance(size, int):
        return emit.number(size, i32, 0)
    known = emit.shapes.size(size)
    counted = emit.add("cast", known, emit.trt.int32, part="cast") if emit.types.strong else known
    return emit.add("shuffle", counted, reshape_dims=())
