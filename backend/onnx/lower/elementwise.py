"""Element-wise ops."""

from __future__ import annotations

from trtc.backend.onnx.lower.registry import MS, Emitter, lower
from trtc.ir import ops as ir
from trtc.ir.op import Op
from trtc.ir.ops.elementwise import Unary

BINARY: dict[type[Op], str] = {
    ir.Add: "Add", ir.Sub: "Sub", ir.Mul: "Mul", ir.Div: "Div", ir.Pow: "Pow", ir.Maximum: "Max", ir.Minimum: "Min",
    ir.Less: "Less", ir.LessEqual: "LessOrEqual", ir.And: "And",
}   # fmt: skip
UNARY: dict[type[Op], str] = {
    ir.Neg: "Neg", ir.Exp: "Exp", ir.Sqrt: "Sqrt", ir.Reciprocal: "Reciprocal", ir.Tanh: "Tanh", ir.Sigmoid: "Sigmoid",
    ir.Erf: "Erf", ir.Cos: "Cos", ir.Sin: "Sin", ir.ReLU: "Relu",
}   # fmt: skip


@lower(*BINARY)
def binary(op: ir.Binary | ir.Compare | ir.And, to: Emitter) -> str:
    return to.add(BINARY[type(op)], to[op.a], to[op.b])


@lower(*UNARY)
def unary(op: Unary, to: Emitter) -> str:
    return to.add(UNARY[type(op)], to[op.x])


@lower(ir.Where)
def where(op: ir.Where, to: Emitter) -> str:
    return to.add("Where", to[op.condition], to[op.a], to[op.b])


@lower(ir.Cast)
def cast(op: ir.Cast, to: Emitter) -> str:
    return to.add("Cast", to[op.x], to=to.onnx_dtype(op.to))


@lower(ir.SiLU)
def silu(op: ir.SiLU, to: Emitter) -> str:
    return to.add("QuickGelu", to[op.x], domain=MS, alpha=1.0)


@lower(ir.GELU)
def gelu(op: ir.GELU, to: Emitter) -> str:
    return to.add("Gelu", to[op.x], approximate="tanh" if op.tanh else "none")
