"""Element-wise nodes."""

from __future__ import annotations

from functools import reduce

from trtc.frontend.onnx.known import filled, uniform
from trtc.frontend.onnx.lift.registry import Node, lift
from trtc.ir import ops as ir
from trtc.ir.op import Value
from trtc.ir.ops import broadcast, scalar
from trtc.ir.types import DType, bf16, bool_, f8e4m3, f16, f32, i8, i32, u8

DTYPES: dict[int, DType] = {
    1: f32, 2: u8, 3: i8, 6: i32, 7: i32, 9: bool_, 10: f16, 11: f32, 16: bf16, 17: f8e4m3,
}   # fmt: skip
"""By TensorProto.DataType; 64 bits are taken as 32, see `known.dtype_of`."""
BINARY: dict[str, type[ir.Binary]] = {"Add": ir.Add, "Sub": ir.Sub, "Mul": ir.Mul, "Div": ir.Div}
UNARY: dict[str, type[ir.Unary]] = {
    "Neg": ir.Neg, "Exp": ir.Exp, "Sqrt": ir.Sqrt, "Reciprocal": ir.Reciprocal, "Tanh": ir.Tanh,
    "Sigmoid": ir.Sigmoid, "Erf": ir.Erf, "Cos": ir.Cos, "Sin": ir.Sin, "Relu": ir.ReLU,
}   # fmt: skip


@lift(*BINARY)
def binary(node: Node) -> Value:
    a, b = node.value(0), node.value(1)
    if node.kind == "Div" and uniform(a) == 1 and a.type.rank <= b.type.rank and b.dtype.is_float:
        return ir.Reciprocal(b)
    return BINARY[node.kind](a, b)


@lift("Max", "Min")
def extreme(node: Node) -> Value:
    kind = ir.Maximum if node.kind == "Max" else ir.Minimum
    return reduce(kind, (node.value(i) for i in range(len(node.inputs))))


@lift(*UNARY)
def unary(node: Node) -> Value:
    x = node.value(0)
    if node.kind == "Neg" and not x.dtype.is_float:
        return ir.Sub(scalar(0, x.dtype), x)
    return UNARY[node.kind](x)


@lift("Pow")
def power(node: Node) -> Value:
    x, exponent = node.value(0), node.value(1)
    number = uniform(exponent)
    if number in (2, 3) and exponent.type.rank <= x.type.rank:
        return ir.Mul(x, x) if number == 2 else ir.Mul(ir.Mul(x, x), x)
    if number == 0.5 and exponent.type.rank <= x.type.rank:
        return ir.Sqrt(x)
    return ir.Pow(x, exponent if exponent.dtype == x.dtype else ir.Cast(exponent, x.dtype))


@lift("Gelu")
def gelu(node: Node) -> Value:
    return ir.GELU(node.value(0), tanh=node.attributes.get("approximate", "none") == "tanh")


@lift("Swish")
def swish(node: Node) -> Value:
    x, alpha = node.value(0), float(node.attributes.get("alpha", 1))
    return ir.SiLU(x) if alpha == 1 else ir.Mul(x, ir.Sigmoid(ir.Mul(x, scalar(alpha, x.dtype))))


@lift("Less", "LessOrEqual", "Greater", "GreaterOrEqual")
def compare(node: Node) -> Value:
    a, b = node.value(0), node.value(1)
    kind = ir.Less if node.kind in ("Less", "Greater") else ir.LessEqual
    return kind(b, a) if node.kind.startswith("Greater") else kind(a, b)


@lift("Equal")
def equal(node: Node) -> Value:
    """a <= b and b <= a"""
    a, b = (ir.Cast(x, i32) if x.dtype == bool_ else x for x in (node.value(0), node.value(1)))
    return ir.And(ir.LessEqual(a, b), ir.LessEqual(b, a))


@lift("And")
def both(node: Node) -> Value:
    return ir.And(node.value(0), node.value(1))


@lift("Or")
def either(node: Node) -> Value:
    """not (not a and not b)"""
    return negated(ir.And(negated(node.value(0)), negated(node.value(1))))


@lift("Not")
def not_(node: Node) -> Value:
    return negated(node.value(0))


def negated(x: Value) -> Value:
    """The opposite of each bool."""
    return ir.Less(ir.Cast(x, i32), scalar(1, i32))


@lift("IsNaN")
def is_nan(node: Node) -> Value:
    """A softmax has none: every token sees itself."""
    x = node.value(0)
    if not isinstance(x, ir.Softmax):
        raise ValueError("its input is no softmax")
    return filled(0, bool_, x.shape)


@lift("Where")
def where(node: Node) -> Value:
    condition, a, b = node.value(0), node.value(1), node.value(2)
    chosen = uniform(condition)
    if chosen is not None:
        shape, x = broadcast(condition.shape, a.shape, b.shape), a if chosen else b
        return x if x.shape == shape else ir.Broadcast(x, shape)
    return ir.Where(condition, a, b)


@lift("Cast")
def cast(node: Node) -> Value:
    x, number = node.value(0), int(node.attributes["to"])
    if number not in DTYPES:
        raise ValueError(f"to is element type {number}, but must be one of {', '.join(map(str, DTYPES))}")
    to = DTYPES[number]
    return x if x.dtype == to else ir.Cast(x, to)


@lift("CastLike")
def cast_like(node: Node) -> Value:
    x, to = node.value(0), node.value(1).dtype
    return x if x.dtype == to else ir.Cast(x, to)


@lift("Clip")
def clip(node: Node) -> Value:
    x = node.value(0)
    if node.given(1):
        x = ir.Maximum(x, node.value(1))
    return ir.Minimum(x, node.value(2)) if node.given(2) else x
