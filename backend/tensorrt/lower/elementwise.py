"""Element-wise arithmetic, comparison and choice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trtc.backend.tensorrt.bindings import dtype_of
from trtc.backend.tensorrt.lower.registry import lower
from trtc.ir.op import Op
from trtc.ir.ops import (
    Add,
    And,
    Binary,
    Cast,
    Compare,
    Cos,
    Div,
    Erf,
    Exp,
    Less,
    LessEqual,
    Maximum,
    Minimum,
    Mul,
    Neg,
    Pow,
    Reciprocal,
    Sin,
    Sqrt,
    Sub,
    Unary,
    Where,
)  # fmt: skip

if TYPE_CHECKING:
    from trtc.backend.tensorrt.emit import Emitter

BINARY: dict[type[Op], str] = {
    Add: "SUM", Sub: "SUB", Mul: "PROD", Div: "DIV", Pow: "POW", Maximum: "MAX", Minimum: "MIN", Less: "LESS",
    And: "AND",
}   # fmt: skip
UNARY: dict[type[Op], str] = {
    Neg: "NEG", Exp: "EXP", Sqrt: "SQRT", Reciprocal: "RECIP", Erf: "ERF", Cos: "COS", Sin: "SIN",
}   # fmt: skip


@lower(*BINARY)
def binary(op: Binary | Compare | And, emit: Emitter) -> Any:
    return emit.add("elementwise", *emit.aligned(op.a, op.b), getattr(emit.trt.ElementWiseOperation, BINARY[type(op)]))


@lower(LessEqual)
def less_equal(op: LessEqual, emit: Emitter) -> Any:
    """less or equal: not NOT(GREATER), which would be true of a NaN"""
    kinds, (a, b) = emit.trt.ElementWiseOperation, emit.aligned(op.a, op.b)
    less = emit.add("elementwise", a, b, kinds.LESS, part="less")
    equal = emit.add("elementwise", a, b, kinds.EQUAL, part="equal")
    return emit.add("elementwise", less, equal, kinds.OR)


@lower(*UNARY)
def unary(op: Unary, emit: Emitter) -> Any:
    return emit.add("unary", emit[op.x], getattr(emit.trt.UnaryOperation, UNARY[type(op)]))


@lower(Where)
def where(op: Where, emit: Emitter) -> Any:
    return emit.add("select", *emit.aligned(op.condition, op.a, op.b))


@lower(Cast)
def cast(op: Cast, emit: Emitter) -> Any:
    return emit.add("cast", emit[op.x], dtype_of(emit.trt, op.to))
