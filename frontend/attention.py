"""The attention block of a decoder's layer, in plain ops."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trtc.frontend.config import DecoderConfig
from trtc.frontend.layers import Lookup, linear, norm, norm_each_head
from trtc.ir.op import Value, at
from trtc.ir.ops import (
    Add,
    And,
    Input,
    Iota,
    KVCacheUpdate,
    Less,
    LessEqual,
    MatMul,
    Maximum,
    Minimum,
    Mul,
    Reshape,
    Rope,
    Softmax,
    Sub,
    Transpose,
    Where,
    scalar,
    soft_cap,
)  # fmt: skip
from trtc.ir.types import Dim, i32

B, S, M = Dim.named("B"), Dim.named("S"), Dim.named("M")


@dataclass(frozen=True)
class Step:
    """What every layer reads of the step under way."""

    past: Value          # i32[B]
    visible: dict[int, Value]     # by the window: bool[B, 1, 1, S, M], which keys each token sees
    angles: tuple[Value, Value] | None   # float[B, S, R/2] each; None where nothing turns
    bias: Value | None = None     # float[B, Hkv, Hq/Hkv, S, M], added to the scores
    local_angles: tuple[Value, Value] | None = None   # of layers that have a window, where they differ


def visible(positions: Value, window: int) -> Value:
    """key <= position, and key > position - window where there is one: bool[B, 1, 1, S, M].

    Args:
        positions: i32[B, S].
        window: how many keys a token sees at most, itself included; 0 for all.
    """
    position = Reshape(positions, (B, 1, 1, S, 1))
    causal = LessEqual(Iota(M), position)
    return And(causal, Less(Sub(position, scalar(window, i32)), Iota(M))) if window else causal


def attention(
    config: DecoderConfig, weights: Lookup, name: str, x: Value, caches: list[Input], step: Step, window: int
) -> tuple[Value, tuple[Value, Value]]:
    """softmax(cap(q @ k.T / sqrt(D)) + bias where visible) @ v over the updated caches, heads in groups."""
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    angles = step.local_angles if window and step.local_angles else step.angles
    q, k, v = (_heads(config, weights, name, x, *part) for part in (("q", heads), ("k", kv_heads), ("v", kv_heads)))
    if angles:
        with at(name):
            q, k = (Rope(part, *angles, interleaved=config.rope.interleaved) for part in (q, k))
    joined, updated = attend(config, name, (q, k, v), caches, step, window)
    return linear(weights, f"{name}.dense", joined, config.hidden_size, config.dense_bias), updated


def attend(
    config: DecoderConfig, name: str, qkv: tuple[Value, Value, Value], caches: list[Input], step: Step, window: int
) -> tuple[Value, tuple[Value, Value]]:
    """Attention of q, k and v, float[B, heads, S, D], up to its last product: float[B, S, heads * D], and caches."""
    q, *new = qkv
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    size, value_size = config.head_dim, config.value_head_dim
    with at(name):
        keys, values = (KVCacheUpdate(c, x, step.past) for c, x in zip(caches, new, strict=True))
        grouped = Reshape(q, (B, kv_heads, heads // kv_heads, S, size))
        scores = MatMul(grouped, Transpose(Reshape(keys, (B, kv_heads, 1, M, size)), (0, 1, 2, 4, 3)))
        scale = config.attention_multiplier
        scores = Mul(scores, scalar(1 / math.sqrt(size) if scale is None else scale, scores.dtype))
        scores = soft_cap(scores, config.attention_softcap) if config.attention_softcap else scores
        scores = Add(scores, step.bias) if step.bias else scores
        seen = Where(step.visible[window], scores, scalar(-math.inf, scores.dtype))
        y = MatMul(Softmax(seen, 4), Reshape(values, (B, kv_heads, 1, M, value_size)))
        y = Transpose(Reshape(y, (B, heads, S, value_size)), (0, 2, 1, 3))
        return Reshape(y, (B, S, heads * value_size)), (keys, values)


def _heads(config: DecoderConfig, weights: Lookup, name: str, x: Value, part: str, heads: int) -> Value:
    """The q, k or v of each head, q and k normalised where the config asks for it: float[B, heads, S, D]."""
    size, place = config.head_dim, f"{name}.{part}"
    y = linear(weights, place, x, heads * size, config.qkv_bias)
    if config.qkv_clip:
        with at(place):
            low, high = (scalar(sign * config.qkv_clip, y.dtype) for sign in (-1, 1))
            y = Minimum(Maximum(y, low), high)
    kind = "none" if part == "v" else config.qk_norm
    if kind == "whole":
        y = norm(config, weights, f"{place}_layernorm", y)
    with at(place):
        y = Reshape(y, (B, S, heads, size))
    if kind == "head":
        y = norm(config, weights, f"{place}_layernorm", y)
    elif kind == "each":
        y = norm_each_head(config, weights, f"{place}_layernorm", y, heads)
    with at(place):
        return Transpose(y, (0, 2, 1, 3))
