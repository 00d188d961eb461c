"""Activation functions of feed-forward blocks."""

from __future__ import annotations

import math

import numpy as np

from trtc.ir.op import Array, Op, Value, require
from trtc.ir.ops.elementwise import Add, Erf, Mul, Sigmoid, Tanh, Unary, erf, same_float, wide
from trtc.ir.ops.leaves import scalar
from trtc.ir.types import TensorType


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


class SiLU(Unary, name="silu"):
    """``x * sigmoid(x)``. Elfwing et al., 2017, arXiv:1702.03118."""

    formula = staticmethod(silu)

    def decompose(self) -> Value:
        return Mul(self.x, Sigmoid(self.x))


class ReLU(Unary, name="relu"):
    """``max(x, 0)``."""

    formula = staticmethod(relu)


class GELU(Op, name="gelu"):
    """``x * P(X <= x)``, X being standard normal.

    Attributes:
        tanh: take the approximation ``x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))``.
    Source:
        Hendrycks and Gimpel, Gaussian Error Linear Units, 2016, arXiv:1606.08415.
    """

    x: Value
    tanh: bool = False

    infer = Unary.infer

    def evaluate(self, x: Array) -> Array:
        y = wide(x)
        inner = np.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)) if self.tanh else erf(y / math.sqrt(2))
        return (y / 2 * (1 + inner)).astype(x.dtype)

    def decompose(self) -> Value:
        x = self.x

        def times(a: Value, number: float) -> Value:
            return Mul(a, scalar(number, x.dtype))

        if self.tanh:
            inner = Tanh(times(Add(x, times(Mul(Mul(x, x), x), 0.044715)), math.sqrt(2 / math.pi)))
        else:
            inner = Erf(times(x, 1 / math.sqrt(2)))
        return Mul(times(x, 0.5), Add(inner, scalar(1, x.dtype)))


class SwiGLU(Op, name="swiglu"):
    """``silu(gate) * up``, in one kernel.

    Operands:
        gate, up: float[...], of one type.
    Source:
        Shazeer, GLU Variants Improve Transformer, 2020, arXiv:2002.05202.
    """

    gate: Value
    up: Value

    def infer(self) -> TensorType:
        same_float(self.gate, self.up)
        require(self.gate.type == self.up.type, f"gate is {self.gate.type}, but up is {self.up.type}")
        return self.gate.type

    def evaluate(self, gate: Array, up: Array) -> Array:
        return (silu(wide(gate)) * wide(up)).astype(gate.dtype)

    def decompose(self) -> Value:
        return Mul(SiLU(self.gate), self.up)
