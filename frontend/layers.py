"""Parts of a decoder's layer: norms, projections and the feed-forward block, in plain ops."""

from __future__ import annotations

from collections.abc import Callable

from trtc.frontend.config import DecoderConfig
from trtc.ir.op import Value, at
from trtc.ir.ops import (
    GELU,
    Add,
    Cast,
    Constant,
    Div,
    LayerNorm,
    Linear,
    Mul,
    ReduceMean,
    ReLU,
    Sigmoid,
    SiLU,
    Sqrt,
    scalar,
)  # fmt: skip
from trtc.ir.types import DType, TensorType, f32

Lookup = Callable[..., Value]
"""The weight of a role, of a shape: ``weights("lm_head.weight", V, H)``."""


def _relu2(x: Value) -> Value:
    """Squared ReLU: So et al., Primer, 2021, arXiv:2109.08668."""
    return Mul(ReLU(x), ReLU(x))


def _quick_gelu(x: Value) -> Value:
    """``x * sigmoid(1.702 x)``: Hendrycks and Gimpel, 2016, arXiv:1606.08415."""
    return Mul(x, Sigmoid(times(x, 1.702)))


def _gelu_tanh(x: Value) -> Value:
    return GELU(x, tanh=True)


ACTIVATIONS: dict[str, Callable[[Value], Value]] = {
    "silu": SiLU,
    "swish": SiLU,
    "gelu": GELU,
    "gelu_pytorch_tanh": _gelu_tanh,
    "gelu_new": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "quick_gelu": _quick_gelu,
    "relu": ReLU,
    "relu2": _relu2,
}


def norm(config: DecoderConfig, weights: Lookup, name: str, x: Value) -> Value:
    """x / sqrt(mean(x^2) + eps) * (weight + offset) over the last axis, in f32; or a layer norm, as its op says."""
    with at(name):
        if config.norm == "layer":
            return _layer_norm(config, weights, name, x)
        weight = weights(f"{name}.weight", columns_of(x))
        wide = cast(x, f32)
        mean_square = ReduceMean(Mul(wide, wide), x.type.rank - 1)
        normal = Div(wide, Sqrt(Add(mean_square, scalar(config.norm_eps, f32))))
        if not config.norm_offset:
            return Mul(cast(normal, x.dtype), weight)
        return cast(Mul(normal, Add(cast(weight, f32), scalar(config.norm_offset, f32))), x.dtype)


def _layer_norm(config: DecoderConfig, weights: Lookup, name: str, x: Value) -> Value:
    size = columns_of(x)
    if not config.norm_weights:
        return LayerNorm(x, Constant((1.0,), TensorType(x.dtype, (size,))), eps=config.norm_eps)
    weight = weights(f"{name}.weight", size)
    bias = weights(f"{name}.bias", size) if config.norm_bias else None
    if not config.norm_offset:
        return LayerNorm(x, weight, bias, eps=config.norm_eps)
    gain = Add(cast(weight, f32), scalar(config.norm_offset, f32))
    return cast(LayerNorm(cast(x, f32), gain, cast(bias, f32) if bias else None, eps=config.norm_eps), x.dtype)


def norm_each_head(config: DecoderConfig, weights: Lookup, name: str, x: Value, heads: int) -> Value:
    """The layer norm of each head of float[B, S, heads, D], with its own weight: float[heads, D]."""
    with at(name):
        size = columns_of(x)
        ones = Constant((1.0,), TensorType(f32, (size,)))
        normal = LayerNorm(cast(x, f32), ones, eps=config.norm_eps)
        return cast(Mul(normal, cast(weights(f"{name}.weight", heads, size), f32)), x.dtype)


def linear(weights: Lookup, name: str, x: Value, columns: int, bias: bool) -> Value:
    with at(name):
        weight = weights(f"{name}.weight", columns, columns_of(x))
        return Linear(x, weight, weights(f"{name}.bias", columns) if bias else None)


def mlp(config: DecoderConfig, weights: Lookup, name: str, x: Value) -> Value:
    """down(act(gate(x)) * up(x)), or down(act(gate(x))); the checkpoint format calls these proj, fc and gate."""
    width, bias = config.intermediate_size, config.mlp_bias
    gate = linear(weights, f"{name}.fc", x, width, bias)
    up = linear(weights, f"{name}.gate", x, width, bias) if config.gated else None
    with at(f"{name}.act"):
        inner = ACTIVATIONS[config.hidden_act](gate)
        inner = Mul(inner, up) if up else inner
    return linear(weights, f"{name}.proj", inner, config.hidden_size, bias)


def times(x: Value, number: float) -> Value:
    return x if number == 1 else Mul(x, scalar(number, x.dtype))


def cast(x: Value, dtype: DType) -> Value:
    return x if x.dtype == dtype else Cast(x, dtype)


def columns_of(x: Value) -> int:
    """The size of the last axis, which is a number."""
    size = x.shape[-1]
    assert isinstance(size, int)
    return size
