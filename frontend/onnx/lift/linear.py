"""Matrix products, reductions and normalisation."""

from __future__ import annotations

from trtc.frontend.onnx.lift.registry import Node, lift
from trtc.frontend.onnx.lift.shape import reshaped
from trtc.ir import ops as ir
from trtc.ir.graph import ordered
from trtc.ir.op import Value
from trtc.ir.ops import scalar

REDUCE: dict[str, type[ir.Reduce]] = {
    "ReduceSum": ir.ReduceSum, "ReduceMean": ir.ReduceMean, "ReduceMax": ir.ReduceMax,
}   # fmt: skip


def is_weight(x: Value) -> bool:
    """Whether a value depends on the model's tensors alone."""
    return not any(isinstance(op, ir.Input) or not op.type.static for op in ordered([x]))


@lift("MatMul")
def matmul(node: Node) -> Value:
    """a linear layer where the second operand is a weight [K, N]"""
    a, b = node.value(0), node.value(1)
    if b.type.rank == 2 and a.type.rank >= 2 and is_weight(b) and not is_weight(a):
        return ir.Linear(a, ir.Transpose(b, (1, 0)))
    return ir.MatMul(a, b)


@lift("Gemm")
def gemm(node: Node) -> Value:
    """alpha * a @ b + beta * c, a and b transposed on request"""
    a, b = node.value(0), node.value(1)
    alpha, beta = float(node.attributes.get("alpha", 1)), float(node.attributes.get("beta", 1))
    if node.attributes.get("transA"):
        a = ir.Transpose(a, (1, 0))
    c = node.value(2) if node.given(2) and beta else None
    if c and beta != 1:
        c = ir.Mul(c, scalar(beta, c.dtype))
    transposed = bool(node.attributes.get("transB"))
    fits = c is None or c.shape == (b.shape[0 if transposed else 1],)
    if is_weight(b) and alpha == 1 and fits:
        return ir.Linear(a, b if transposed else ir.Transpose(b, (1, 0)), c)
    y: Value = ir.MatMul(a, ir.Transpose(b, (1, 0)) if transposed else b)
    y = y if alpha == 1 else ir.Mul(y, scalar(alpha, y.dtype))
    return ir.Add(y, c) if c else y


@lift(*REDUCE)
def reduce(node: Node) -> Value:
    x, axes = node.value(0), node.numbers(1, "axes")
    if axes is None:
        axes = [] if node.attributes.get("noop_with_empty_axes") else list(range(x.type.rank))
    along = sorted(node.axis(a, x.type.rank) for a in axes)
    y = x
    for axis in along:
        y = REDUCE[node.kind](y, axis)
    kept = node.attributes.get("keepdims", 1)
    return y if kept else reshaped(y, tuple(s for a, s in enumerate(y.shape) if a not in along))


@lift("Softmax")
def softmax(node: Node) -> Value:
    x = node.value(0)
    axis = node.axis(int(node.attributes.get("axis", -1 if node.opset >= 13 else 1)), x.type.rank)
    if node.opset < 13 and axis != x.type.rank - 1:
        raise ValueError(f"opset {node.opset} flattens its input from axis {axis}, but must leave it")
    return ir.Softmax(x, axis)


def _over_last(node: Node, x: Value) -> float:
    axis = node.axis(int(node.attributes.get("axis", -1)), x.type.rank)
    if axis != x.type.rank - 1:
        raise ValueError(f"it normalises from axis {axis}, but must normalise over the last, {x.type.rank - 1}")
    return float(node.attributes.get("epsilon", 1e-5))


@lift("LayerNormalization")
def layer_norm(node: Node) -> Value:
    x = node.value(0)
    bias = node.value(2) if node.given(2) else None
    return ir.LayerNorm(x, node.value(1), bias, eps=_over_last(node, x))


@lift("RMSNormalization")
def rms_norm(node: Node) -> Value:
    x = node.value(0)
    return ir.RMSNorm(x, node.value(1), eps=_over_last(node, x))
