"""A small target, and ops of its own: what legalize and rewrite-plugins are tested with."""

from __future__ import annotations

import numpy as np

from trtc.ir.op import OPS, Array, Op, Value, require
from trtc.ir.ops import Add, Cast, Concat, Linear, MatMul, Mul, Reshape, Slice, Softmax, Transpose, Where
from trtc.ir.target import Target, always
from trtc.ir.types import TensorType, bf16, f32
from trtc.passes.rewrite import Skip


class Halves(Op, name="testing.halves"):
    """The first and the second half of the last axis.

    Operands:
        x: float[..., 2 * N].
    Result:
        two of float[..., N].
    """

    x: Value

    def infer(self) -> tuple[TensorType, ...]:
        size = self.x.shape[-1] if self.x.shape else 1
        require(isinstance(size, int) and size % 2 == 0, f"the last axis is {size}, but must be even")
        assert isinstance(size, int)
        return (TensorType(self.x.dtype, (*self.x.shape[:-1], size // 2)),) * 2

    def evaluate(self, x: Array) -> tuple[Array, ...]:
        first, second = np.split(x, 2, -1)
        return first, second

    def decompose(self) -> tuple[Value, ...]:
        size, axis = self.type.shape[-1], self.type.rank - 1
        assert isinstance(size, int)
        return Slice(self.x, axis, 0, size), Slice(self.x, axis, size, size)


class AddMul(Op, name="testing.add_mul"):
    """``(a + b) * c``, of one type. It says its meaning by its decomposition alone."""

    a: Value
    b: Value
    c: Value

    def infer(self) -> TensorType:
        require(self.a.type == self.b.type == self.c.type, "operands must have one type")
        return self.a.type

    def decompose(self) -> Value:
        return Mul(Add(self.a, self.b), self.c)


def add_mul(op: Mul) -> Value | Skip | None:
    """(a + b) * c  ->  add_mul(a, b, c)"""
    match op:
        case Mul(Add(a, b), c) | Mul(c, Add(a, b)):
            one_type = a.type == b.type == c.type
            return AddMul(a, b, c) if one_type else Skip(f"operands are {a.type}, {b.type} and {c.type}")
        case _:
            return None


def _of_rank_3(op: Op) -> str | None:
    return None if op.type.rank <= 3 else f"it has rank {op.type.rank}, but must have 3 at most"


TARGET = Target(
    name="testing",
    version="1",
    summary="A small target for tests.",
    native={
        Add: always, AddMul: always, Cast: always, Concat: always, Linear: _of_rank_3, MatMul: always, Mul: always,
        Reshape: always, Slice: always, Softmax: _of_rank_3, Transpose: always, Where: always,
    },
    plugins=((add_mul,),),
    widened={bf16: f32},
)   # fmt: skip
PRIMITIVES = Target(
    name="testing-primitives",
    version="1",
    summary="Every primitive, and nothing else.",
    native={kind: always for kind in OPS.values() if kind.decompose is Op.decompose},
)
