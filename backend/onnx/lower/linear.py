"""Matrix products, reductions and normalisation."""

from __future__ import annotations

from trtc.backend.onnx.lower.registry import MS, Emitter, lower
from trtc.backend.onnx.ops import SkipRMSNorm
from trtc.ir import ops as ir
from trtc.ir.op import Op

REDUCE: dict[type[Op], str] = {ir.ReduceSum: "ReduceSum", ir.ReduceMean: "ReduceMean", ir.ReduceMax: "ReduceMax"}


@lower(ir.MatMul)
def matmul(op: ir.MatMul, to: Emitter) -> str:
    return to.add("MatMul", to[op.a], to[op.b])


@lower(ir.Linear)
def linear(op: ir.Linear, to: Emitter) -> str:
    """The weight stays [N, K], as the checkpoint has it: nothing is transposed on the way."""
    y = to.add("FusedMatMul", to[op.x], to[op.weight], domain=MS, transB=1)
    return to.add("Add", y, to[op.bias]) if op.bias else y


@lower(*REDUCE)
def reduce(op: ir.Reduce, to: Emitter) -> str:
    return to.add(REDUCE[type(op)], to[op.x], to.literal([op.axis]), keepdims=1)


@lower(ir.Softmax)
def softmax(op: ir.Softmax, to: Emitter) -> str:
    return to.add("Softmax", to[op.x], axis=op.axis)


@lower(ir.RMSNorm)
def rms_norm(op: ir.RMSNorm, to: Emitter) -> str:
    return to.add("RMSNormalization", to[op.x], to[op.weight], axis=-1, epsilon=op.eps)


@lower(ir.LayerNorm)
def layer_norm(op: ir.LayerNorm, to: Emitter) -> str:
    bias = [to[op.bias]] if op.bias else []
    return to.add("LayerNormalization", to[op.x], to[op.weight], *bias, axis=-1, epsilon=op.eps)


@lower(SkipRMSNorm)
def skip_rms_norm(op: SkipRMSNorm, to: Emitter) -> tuple[str, str]:
    inputs = (to[op.x], to[op.skip], to[op.weight])
    norm, _, _, joint = to.add(
        "SkipSimplifiedLayerNormalization", *inputs, outputs=4, unread=(1, 2), domain=MS, epsilon=op.eps
    )
    return norm, joint
