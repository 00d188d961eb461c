"""Matrix products and the embedding."""

from __future__ import annotations

import numpy as np

from trtc.ir.op import Array, Op, Value, require
from trtc.ir.ops.elementwise import Add, broadcast, same_float, wide
from trtc.ir.ops.shape import Gather, Transpose
from trtc.ir.types import TensorType


class MatMul(Op, name="matmul"):
    """``a @ b`` over the last two axes; the leading ones broadcast. Sums are taken in f32.

    Operands:
        a: float[..., M, K].
        b: float[..., K, N].
    """

    a: Value
    b: Value

    def infer(self) -> TensorType:
        dtype, a, b = same_float(self.a, self.b), self.a.shape, self.b.shape
        require(min(len(a), len(b)) >= 2, f"operands have ranks {len(a)} and {len(b)}, but must have 2 at least")
        require(a[-1] == b[-2], f"the last axis of a is {a[-1]}, but b takes {b[-2]}")
        return TensorType(dtype, (*broadcast(a[:-2], b[:-2]), a[-2], b[-1]))

    def evaluate(self, a: Array, b: Array) -> Array:
        return np.matmul(wide(a), wide(b)).astype(a.dtype)


class Linear(Op, name="linear"):
    """A dense layer: ``y = x @ weight.T + bias``. Sums are taken in f32.

    Operands:
        x: float[..., K].
        weight: float[N, K], as checkpoints store it.
        bias: float[N], or none.
    Result:
        float[..., N], of x's dtype.
    """

    x: Value
    weight: Value
    bias: Value | None = None

    def infer(self) -> TensorType:
        require(self.weight.type.rank == 2, f"weight has rank {self.weight.type.rank}, but must have rank 2")
        require(self.x.type.rank >= 2, f"x has rank {self.x.type.rank}, but must have rank 2 at least")
        same_float(self.x, self.weight)
        outer, inner = self.weight.shape
        require(self.x.shape[-1] == inner, f"the last axis of x is {self.x.shape[-1]}, but the weight takes {inner}")
        if self.bias:
            want = self.x.dtype[outer]
            require(self.bias.type == want, f"bias is {self.bias.type}, but must be {want}")
        return TensorType(self.x.dtype, (*self.x.shape[:-1], outer))

    def evaluate(self, x: Array, weight: Array, bias: Array | None) -> Array:
        y = np.matmul(wide(x), wide(weight).T)
        return (y if bias is None else y + wide(bias)).astype(x.dtype)

    def decompose(self) -> Value:
        y = MatMul(self.x, Transpose(self.weight, (1, 0)))
        return Add(y, self.bias) if self.bias else y


class Embedding(Op, name="embedding"):
    """The rows of a table for some token ids.

    Operands:
        table: float[V, H].
        ids: int[...], each in 0..V.
    Result:
        float[..., H].
    """

    table: Value
    ids: Value

    def infer(self) -> TensorType:
        require(self.table.type.rank == 2, f"table has rank {self.table.type.rank}, but must have rank 2")
        require(self.ids.dtype.kind == "int", f"ids are {self.ids.dtype}, but must be integers")
        return TensorType(self.table.dtype, (*self.ids.shape, self.table.shape[1]))

    def evaluate(self, table: Array, ids: Array) -> Array:
        return np.take(table, ids, 0)

    def decompose(self) -> Value:
        return Gather(self.table, self.ids)
