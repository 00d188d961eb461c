"""The generic decoder: a config and weights become a graph of plain ops, as the papers write them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from trtc.frontend.alibi import bias
from trtc.frontend.attention import B, M, S, Step, attention, visible
from trtc.frontend.config import DecoderConfig
from trtc.frontend.embedding import embed
from trtc.frontend.layers import Lookup, cast, columns_of, linear, mlp, norm, times
from trtc.frontend.mla import latent_attention
from trtc.frontend.moe import mixture
from trtc.frontend.rope import angles
from trtc.ir.graph import Graph
from trtc.ir.op import Value, at
from trtc.ir.ops import Add, Gather, Input, Iota, Linear, Reshape, Sub, scalar, soft_cap
from trtc.ir.types import DType, TensorType, f32, i32

PLACES = {
    "pre": ("input_layernorm", "", "", "post_layernorm", "", ""),
    "post": ("", "post_layernorm", "", "", "post_feedforward_layernorm", ""),
    "sum": ("", "", "input_layernorm", "", "", "post_layernorm"),
    "both": ("input_layernorm", "post_layernorm", "", "pre_feedforward_layernorm", "post_feedforward_layernorm", ""),
}
"""By ``norm_place``: the norms before attention, after it, after it is added; the same of the feed-forward block."""


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
    with at("transformer.positions"):
        positions = Add(Reshape(past, (B, 1)), Iota(S))
    x, table = embed(config, weights, ids, positions, dtype)
    step = _step(config, limits, dtype, lengths, past, positions)
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


def _step(
    config: DecoderConfig, limits: Limits, dtype: DType, lengths: Value, past: Value, positions: Value
) -> Step:
    with at("transformer.rope"):
        totals = Add(past, lengths)
        turned, local = (
            angles(rope, positions, totals, limits.max_seq_len, dtype) if rope and rope.dim else None
            for rope in (config.rope, config.local_rope)
        )
    with at("transformer.alibi"):
        slopes = config.alibi_slopes
        rise = bias(slopes, config.num_key_value_heads, positions, M, dtype) if slopes else None
    with at("transformer.mask"):
        seen = {window: visible(positions, window) for window in {*config.windows, 0}}
    return Step(past, seen, turned, rise, local)


def _layer(
    config: DecoderConfig, weights: Lookup, n: int, x: Value, caches: list[Input], step: Step
) -> tuple[Value, tuple[Value, Value]]:
    name, window = f"transformer.layers.{n}", config.windows[n] if config.windows else 0
    before, after, added, before_mlp, after_mlp, added_mlp = PLACES[config.norm_place]

    def normal(place: str, x: Value) -> Value:
        return norm(config, weights, f"{name}.{place}", x) if place else x

    read = normal(before, x)
    attend = latent_attention if config.mla else attention
    attended, updated = attend(_of_layer(config, n), weights, f"{name}.attention", read, caches, step, window)
    base = read if config.residual_of_norm else x
    inner = normal(added, _plus(config, f"{name}.attention.residual", base, normal(after, attended)))
    beside = config.parallel_residual
    read_next = read if beside and config.parallel_norms == 1 else normal(before_mlp, x if beside else inner)
    feed = mixture if config.moe and n in config.moe.layers else mlp
    fed = feed(config, weights, f"{name}.mlp", read_next)
    base = read_next if config.residual_of_norm else inner
    return normal(added_mlp, _plus(config, f"{name}.mlp.residual", base, normal(after_mlp, fed))), updated


def _of_layer(config: DecoderConfig, n: int) -> DecoderConfig:
    """The config of one layer's attention."""
    if not config.divide_scores_by_layer:
        return config
    scale = config.attention_multiplier
    return replace(config, attention_multiplier=(config.head_dim**-0.5 if scale is None else scale) / (n + 1))


def _plus(config: DecoderConfig, name: str, x: Value, added: Value) -> Value:
    with at(name):
        return Add(x, times(added, config.residual_multiplier))


def _head(config: DecoderConfig, weights: Lookup, x: Value, lengths: Value, table: Value, all_logits: bool) -> Value:
    """The final norm and the scores of each word, for the last token of each sequence or for all."""
    if not all_logits:
        with at("transformer.last_token"):
            x = Gather(x, Sub(lengths, scalar(1, i32)), axis=1, batch=1)
    x = norm(config, weights, "transformer.ln_f", x) if config.final_norm else x
    if config.embedding_dim:
        x = linear(weights, "transformer.project_out", x, config.embedding_dim, False)
    with at("lm_head"):
        words = table if config.tie_word_embeddings else weights("lm_head.weight", config.vocab_size, columns_of(x))
        logits = Linear(x, words, weights("lm_head.bias", config.vocab_size) if config.head_bias else None)
        logits = times(cast(logits, f32), config.logits_multiplier)
        return soft_cap(logits, config.logits_softcap) if config.logits_softcap else logits
