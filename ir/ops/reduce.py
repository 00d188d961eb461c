"""Reductions along one axis, and the softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from trtc.ir.op import Array, Op, Value, require
from trtc.ir.ops.elementwise import Div, Exp, Sub, wide
from trtc.ir.types import TensorType


class Reduce(Op):
    x: Value
    axis: int
    formula: ClassVar[Callable[..., Any]]

    def infer(self) -> TensorType:
        require(0 <= self.axis < self.x.type.rank, f"x has no axis {self.axis}")
        return TensorType(self.x.dtype, (*self.x.shape[: self.axis], 1, *self.x.shape[self.axis + 1 :]))

    def evaluate(self, x: Array) -> Array:
        return type(self).formula(wide(x), axis=self.axis, keepdims=True).astype(x.dtype)


class ReduceSum(Reduce, name="reduce_sum"):
    """The sum along one axis, which stays with size 1. Taken in f32."""

    formula = np.sum


class ReduceMean(Reduce, name="reduce_mean"):
    """The mean along one axis, which stays with size 1. Taken in f32."""

    formula = np.mean

    def infer(self) -> TensorType:
        require(self.x.dtype.is_float, f"x is {self.x.dtype}, but must be a float")
        return super().infer()


class ReduceMax(Reduce, name="reduce_max"):
    """The greatest element along one axis, which stays with size 1."""

    formula = np.max


class Softmax(Op, name="softmax"):
    """``y = e ** (x - m) / sum(e ** (x - m))`` along one axis, m being its greatest element. Taken in f32.

    A row must hold one finite number at least.
    """

    x: Value
    axis: int

    def infer(self) -> TensorType:
        require(self.x.dtype.is_float, f"x is {self.x.dtype}, but must be a float")
        require(0 <= self.axis < self.x.type.rank, f"x has no axis {self.axis}")
        return self.x.type

    def evaluate(self, x: Array) -> Array:
        y = wide(x)
        e = np.exp(y - y.max(self.axis, keepdims=True))
        return (e / e.sum(self.axis, keepdims=True)).astype(x.dtype)

    def decompose(self) -> Value:
        e = Exp(Sub(self.x, ReduceMax(self.x, self.axis)))
        return Div(e, ReduceSum(e, self.axis))
