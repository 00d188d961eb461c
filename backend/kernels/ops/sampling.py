"""The end of a step: the next token of each sequence, and whether it is the last."""

from __future__ import annotations

from trtc.ir.op import Array, Op, Value, require
from trtc.ir.ops import Reshape, TopK
from trtc.ir.types import TensorType, i32


class ArgMax(Op, name="cuda.argmax"):
    """Where the greatest element of each row stands; of equal ones the first.

    Operands:
        x: float[B, V].
    Result:
        i32[B].
    """

    x: Value

    def infer(self) -> TensorType:
        require(self.x.type.rank == 2, f"x has rank {self.x.type.rank}, but must have rank 2")
        return i32[TopK(self.x, 1).shape[0],]

    def evaluate(self, x: Array) -> Array:
        return TopK(self.x, 1).evaluate(x)[:, 0]

    def decompose(self) -> Value:
        return Reshape(TopK(self.x, 1), self.type.shape)
