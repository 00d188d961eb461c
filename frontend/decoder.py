"""The generic decoder: a config and weights become a graph of plain ops, as the papers write them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trtc.frontend.attention import B, M, S, Step, attention, visible
from trtc.frontend.config import DecoderConfig
from trtc.frontend.layers import Lookup, cast, mlp, norm, times
from trtc.frontend.mla import latent_attention
from trtc.frontend.moe import mixture
from trtc.frontend.rope import angles
from trtc.ir.graph import Graph
from trtc.ir.op import Value, at
from trtc.ir.ops import Add, Embedding, Gather, Input, Iota, Linear, Reshape, Sub, scalar, soft_cap
from trtc.ir.types import DType, TensorType, f32, i32

PLACES = {
    "pre": ("input_layernorm", "", "post_layernorm", ""),
    "post": ("", "post_layernorm", "", "post_feedforward_layernorm"),
    "both": ("input_layernorm", "post_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"),
}
"""By ``norm_place``: the norms before attention, after it, before the feed-forward block, after it."""


@dataclass(frozen=True)
class Limits:
    """The bounds of an engine: sequences a batch, new tokens a call, tokens of a sequence in all."""

    max_batch_size: int
    max_input_len: int
    max_seq_len: int


def build_decoder(
    config: DecoderConfig, weights: Lookup, limits: Limits, dtype: DType, *, all_logits: bool = False
) -> Graph:
    """The graph of one call: new tokens and caches in, logits of each sequence's last token and updated caches out.

    Args:
        weights: the weight of a role, of ``dtype``.
        all_logits: return the logits of every new token, f32[B, S, V], instead of f32[B, V].
    """
    ids, lengths, past = Input("input_ids", i32[B, S]), Input("input_lengths", i32[B]), Input("past_lengths", i32[B])
    with at("transformer.vocab_embedding"):
        table = weights("transformer.vocab_embedding.weight", config.vocab_size, config.hidden_size)
        x = times(Embedding(table, ids), _embedding_multiplier(config, dtype))
    step = _step(config, limits, dtype, lengths, past)
    inputs, outputs = [ids, lengths, past], dict[str, Value]()
    for n in range(config.num_hidden_layers):
        caches = [
            Input(f"layers.{n}.{kind}_cache", TensorType(dtype, (B, config.num_key_value_heads, M, size)))
            for kind, size in (("key", config.head_dim), ("value", config.value_head_dim))
        ]
        x, updated = _layer(config, weights, n, x, caches, step)
        inputs += caches
        outputs |= {cache.key: new for cache, new in zip(caches, updated, strict=True)}
    logits = _head(config, weights, x, lengths, table, all_logits)
    bounds = {"B": (1, limits.max_batch_size), "S": (1, limits.max_input_len), "M": (1, limits.max_seq_len)}
    return Graph("decoder", tuple(inputs), {"logits": logits, **outputs}, bounds)


def _embedding_multiplier(config: DecoderConfig, dtype: DType) -> float:
    number = config.embedding_multiplier
    return float(np.array(number, dtype.numpy)) if config.round_embedding_multiplier else number


def _step(config: DecoderConfig, limits: Limits, dtype: DType, lengths: Value, past: Value) -> Step:
    with at("transformer.positions"):
        positions = Add(Reshape(past, (B, 1)), Iota(S))
    with at("transformer.rope"):
        totals = Add(past, lengths)
        turned, local = (
            angles(rope, positions, totals, limits.max_seq_len, dtype)
            for rope in (config.rope, config.local_rope or config.rope)
        )
    with at("transformer.mask"):
        return Step(past, {window: visible(positions, window) for window in {*config.windows, 0}}, turned, local)


def _layer(
    config: DecoderConfig, weights: Lookup, n: int, x: Value, caches: list[Input], step: Step
) -> tuple[Value, tuple[Value, Value]]:
    name, window = f"transformer.layers.{n}", config.windows[n] if config.windows else 0
    before, after, before_mlp, after_mlp = PLACES[config.norm_place]

    def normal(place: str, x: Value) -> Value:
        return norm(config, weights, f"{name}.{place}", x) if place else x

    read = normal(before, x)
    attend = latent_attention if config.mla else attention
    attended, updated = attend(config, weights, f"{name}.attention", read, caches, step, window)
    x = _plus(config, f"{name}.attention.residual", x, normal(after, attended))
    feed = mixture if config.moe and n in config.moe.layers else mlp
    fed = feed(config, weights, f"{name}.mlp", read if config.parallel_residual else normal(before_mlp, x))
    return _plus(config, f"{name}.mlp.residual", x, normal(after_mlp, fed)), updated


def _plus(config: DecoderConfig, name: str, x: Value, added: Value) -> Value:
    with at(name):
        return Add(x, times(added, config.residual_multiplier))


def _head(config: DecoderConfig, weights: Lookup, x: Value, lengths: Value, table: Value, all_logits: bool) -> Value:
    """The final norm and the scores of each word, for the last token of each sequence or for all."""
    if not all_logits:
        with at("transformer.last_token"):
            x = Gather(x, Sub(lengths, scalar(1, i32)), axis=1, batch=1)
    x = norm(config, weights, "transformer.ln_f", x)
    shape = (config.vocab_size, config.hidden_size)
    with at("lm_head"):
        logits = Linear(x, table if config.tie_word_embeddings else weights("lm_head.weight", *shape))
        logits = times(cast(logits, f32), config.logits_multiplier)
        return soft_cap(logits, config.logits_softcap) if config.logits_softcap else logits
