"""Normalisation over the last axis."""

from __future__ import annotations

import numpy as np

from trtc.ir.op import Array, Op, Value, require
from trtc.ir.ops.elementwise import Add, Cast, Div, Mul, Sqrt, Sub, wide
from trtc.ir.ops.leaves import scalar
from trtc.ir.ops.reduce import ReduceMean
from trtc.ir.types import TensorType, f32


def widened(x: Value) -> Value:
    """The value in f32, in which normalisation is computed."""
    return x if x.dtype.bits >= 32 else Cast(x, f32)


def narrowed(x: Value, like: Value) -> Value:
    return x if x.dtype == like.dtype else Cast(x, like.dtype)


def check_gain(x: Value, name: str, gain: Value, eps: float) -> None:
    require(x.type.rank > 0, "x has rank 0, but must have rank 1 at least")
    require(x.dtype.is_float, f"x is {x.dtype}, but must be a float")
    want = x.dtype[x.shape[-1]]
    require(gain.type == want, f"{name} is {gain.type}, but the last axis of x asks for {want}")
    require(eps > 0, f"eps is {eps:g}, but must be positive")


class RMSNorm(Op, name="rms_norm"):
    """Root-mean-square normalisation over the last axis.

        y[..., h] = x[..., h] / sqrt(mean(x[..., :]^2) + eps) * weight[h]

    Operands:
        x: float[..., H], the activations.
        weight: float[H], the gain, of x's dtype.
    Attributes:
        eps: added to the mean square; dimensionless, > 0.
    Result:
        x's type. Computed in f32 and rounded before the gain, as Llama does.
    Source:
        Zhang and Sennrich, Root Mean Square Layer Normalization, 2019, arXiv:1910.07467.
    """

    x: Value
    weight: Value
    eps: float = 1e-5

    def infer(self) -> TensorType:
        check_gain(self.x, "weight", self.weight, self.eps)
        return self.x.type

    def evaluate(self, x: Array, weight: Array) -> Array:
        y = wide(x)
        normal = y / np.sqrt(np.square(y).mean(axis=-1, keepdims=True) + y.dtype.type(self.eps))
        return normal.astype(x.dtype) * weight

    def decompose(self) -> Value:
        x = widened(self.x)
        mean_square = ReduceMean(Mul(x, x), x.type.rank - 1)
        normal = Div(x, Sqrt(Add(mean_square, scalar(self.eps, x.dtype))))
        return Mul(narrowed(normal, self.x), self.weight)


class LayerNorm(Op, name="layer_norm"):
    """Normalisation over the last axis to mean 0 and variance 1, then gain and bias.

        y[..., h] = (x[..., h] - mean) / sqrt(variance + eps) * weight[h] + bias[h]

    Operands:
        x: float[..., H].
        weight: float[H], the gain, of x's dtype.
        bias: float[H], of x's dtype, or none.
    Attributes:
        eps: added to the (biased) variance; dimensionless, > 0.
    Result:
        x's type. Computed in f32.
    Source:
        Ba, Kiros and Hinton, Layer Normalization, 2016, arXiv:1607.06450.
    """

    x: Value
    weight: Value
    bias: Value | None = None
    eps: float = 1e-5

    def infer(self) -> TensorType:
        check_gain(self.x, "weight", self.weight, self.eps)
        if self.bias:
            check_gain(self.x, "bias", self.bias, self.eps)
        return self.x.type

    def evaluate(self, x: Array, weight: Array, bias: Array | None) -> Array:
        y = wide(x)
        y = y - y.mean(axis=-1, keepdims=True)
        y = y / np.sqrt(np.square(y).mean(axis=-1, keepdims=True) + y.dtype.type(self.eps)) * wide(weight)
        return (y if bias is None else y + wide(bias)).astype(x.dtype)

    def decompose(self) -> Value:
        x = widened(self.x)
        last = x.type.rank - 1
        centred = Sub(x, ReduceMean(x, last))
        variance = ReduceMean(Mul(centred, centred), last)
        y: Value = Mul(Div(centred, Sqrt(Add(variance, scalar(self.eps, x.dtype)))), widened(self.weight))
        return narrowed(Add(y, widened(self.bias)) if self.bias else y, self.x)
