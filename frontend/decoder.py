"""The generic decoder: a config and weights become a graph of plain ops, as the papers write them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from trtc.frontend.config import DecoderConfig
from trtc.frontend.rope import angles
from trtc.ir.graph import Graph
from trtc.ir.op import Value, at
from trtc.ir.ops import (
    GELU,
    Add,
    Cast,
    Div,
    Embedding,
    Gather,
    Input,
    Iota,
    KVCacheUpdate,
    LessEqual,
    Linear,
    MatMul,
    Mul,
    ReduceMean,
    ReLU,
    Reshape,
    Rope,
    SiLU,
    Softmax,
    Sqrt,
    Sub,
    Transpose,
    Where,
    scalar,
)  # fmt: skip
from trtc.ir.types import Dim, DType, TensorType, f32, i32

B, S, M = Dim.named("B"), Dim.named("S"), Dim.named("M")
Lookup = Callable[..., Value]
"""The weight of a role, of a shape: ``weights("lm_head.weight", V, H)``."""

ACTIVATIONS: dict[str, Callable[[Value], Value]] = {
    "silu": SiLU,
    "gelu": GELU,
    "gelu_pytorch_tanh": lambda x: GELU(x, tanh=True),
    "gelu_new": lambda x: GELU(x, tanh=True),
    "relu": ReLU,
}


@dataclass(frozen=True)
class Limits:
    """The bounds of an engine: sequences a batch, new tokens a call, tokens of a sequence in all."""

    max_batch_size: int
    max_input_len: int
    max_seq_len: int


@dataclass(frozen=True)
class Step:
    """What every layer reads of the step under way."""

    past: Value          # i32[B]
    visible: Value       # bool[B, 1, 1, S, M]
    angles: tuple[Value, Value]   # float[B, S, R/2] each


def build_decoder(
    config: DecoderConfig, weights: Lookup, limits: Limits, dtype: DType, *, all_logits: bool = False
) -> Graph:
    """The graph of one call: new tokens and caches in, logits of each sequence's last token and updated caches out.

    Args:
        weights: the weight of a role, of ``dtype``.
        all_logits: return the logits of every new token, f32[B, S, V], instead of f32[B, V].
    """
    ids, lengths, past = Input("input_ids", i32[B, S]), Input("input_lengths", i32[B]), Input("past_lengths", i32[B])
    with at("transformer.positions"):
        positions = Add(Reshape(past, (B, 1)), Iota(S))
    with at("transformer.rope"):
        turned = angles(config.rope, positions, Add(past, lengths), limits.max_seq_len, dtype)
    with at("transformer.mask"):
        visible = LessEqual(Iota(M), Reshape(positions, (B, 1, 1, S, 1)))
    step = Step(past, visible, turned)
    with at("transformer.vocab_embedding"):
        table = weights("transformer.vocab_embedding.weight", config.vocab_size, config.hidden_size)
        x: Value = Embedding(table, ids)
    inputs, outputs = [ids, lengths, past], dict[str, Value]()
    for n in range(config.num_hidden_layers):
        caches = [
            Input(f"layers.{n}.{kind}_cache", TensorType(dtype, (B, config.num_key_value_heads, M, config.head_dim)))
            for kind in ("key", "value")
        ]
        x, updated = _layer(config, weights, f"transformer.layers.{n}", x, caches, step)
        inputs += caches
        outputs |= {cache.key: new for cache, new in zip(caches, updated, strict=True)}
    logits = _head(config, weights, x, lengths, table, all_logits)
    bounds = {"B": (1, limits.max_batch_size), "S": (1, limits.max_input_len), "M": (1, limits.max_seq_len)}
    return Graph("decoder", tuple(inputs), {"logits": logits, **outputs}, bounds)


def _layer(
    config: DecoderConfig, weights: Lookup, name: str, x: Value, caches: list[Input], step: Step
) -> tuple[Value, tuple[Value, Value]]:
    normal = _norm(config, weights, f"{name}.input_layernorm", x)
    attended, updated = _attention(config, weights, f"{name}.attention", normal, caches, step)
    with at(f"{name}.attention.residual"):
        x = Add(x, attended)
    fed = _mlp(config, weights, f"{name}.mlp", _norm(config, weights, f"{name}.post_layernorm", x))
    with at(f"{name}.mlp.residual"):
        return Add(x, fed), updated


def _norm(config: DecoderConfig, weights: Lookup, name: str, x: Value) -> Value:
    """x / sqrt(mean(x^2) + eps) * weight, in f32."""
    with at(name):
        wide = x if x.dtype == f32 else Cast(x, f32)
        mean_square = ReduceMean(Mul(wide, wide), x.type.rank - 1)
        normal = Div(wide, Sqrt(Add(mean_square, scalar(config.norm_eps, f32))))
        return Mul(normal if x.dtype == f32 else Cast(normal, x.dtype), weights(f"{name}.weight", config.hidden_size))


def _linear(weights: Lookup, name: str, x: Value, columns: int, bias: bool) -> Value:
    rows = x.shape[-1]
    assert isinstance(rows, int)
    with at(name):
        return Linear(x, weights(f"{name}.weight", columns, rows), weights(f"{name}.bias", columns) if bias else None)


def _attention(
    config: DecoderConfig, weights: Lookup, name: str, x: Value, caches: list[Input], step: Step
) -> tuple[Value, tuple[Value, Value]]:
    """softmax(q @ k.T / sqrt(D) where visible) @ v over the updated caches, heads in groups."""
    heads, kv_heads, size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    group = heads // kv_heads

    def project(part: str, n: int) -> Value:
        y = _linear(weights, f"{name}.{part}", x, n * size, config.attention_bias)
        with at(f"{name}.{part}"):
            return Transpose(Reshape(y, (B, S, n, size)), (0, 2, 1, 3))

    q, k, v = project("q", heads), project("k", kv_heads), project("v", kv_heads)
    with at(name):
        q, k = (Rope(part, *step.angles, interleaved=config.rope.interleaved) for part in (q, k))
        keys, values = (KVCacheUpdate(c, new, step.past) for c, new in zip(caches, (k, v), strict=True))
        grouped = Reshape(q, (B, kv_heads, group, S, size))
        scores = MatMul(grouped, Transpose(Reshape(keys, (B, kv_heads, 1, M, size)), (0, 1, 2, 4, 3)))
        scores = Mul(scores, scalar(1 / math.sqrt(size), scores.dtype))
        seen = Where(step.visible, scores, scalar(-math.inf, scores.dtype))
        y = MatMul(Softmax(seen, 4), Reshape(values, (B, kv_heads, 1, M, size)))
        joined = Reshape(Transpose(Reshape(y, (B, heads, S, size)), (0, 2, 1, 3)), (B, S, heads * size))
    return _linear(weights, f"{name}.dense", joined, config.hidden_size, config.attention_bias), (keys, values)


def _mlp(config: DecoderConfig, weights: Lookup, name: str, x: Value) -> Value:
    """down(act(gate(x)) * up(x)); the checkpoint format calls these proj, fc and gate."""
    width, bias = config.intermediate_size, config.mlp_bias
    gate, up = (_linear(weights, f"{name}.{part}", x, width, bias) for part in ("fc", "gate"))
    with at(f"{name}.act"):
        inner = Mul(ACTIVATIONS[config.hidden_act](gate), up)
    return _linear(weights, f"{name}.proj", inner, config.hidden_size, bias)


def _head(config: DecoderConfig, weights: Lookup, x: Value, lengths: Value, table: Value, all_logits: bool) -> Value:
    """The final norm and the scores of each word, for the last token of each sequence or for all."""
    if not all_logits:
        with at("transformer.last_token"):
            x = Gather(x, Sub(lengths, scalar(1, i32)), axis=1, batch=1)
    x = _norm(config, weights, "transformer.ln_f", x)
    shape = (config.vocab_size, config.hidden_size)
    with at("lm_head"):
        logits = Linear(x, table if config.tie_word_embeddings else weights("lm_head.weight", *shape))
        return logits if logits.dtype == f32 else Cast(logits, f32)
