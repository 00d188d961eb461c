"""Falcon 1 and 2: blocks in parallel, few key heads; the RW models have slopes. Almazrouei et al., arXiv:2311.16867."""

from __future__ import annotations

import math
from dataclasses import replace

from ml_dtypes import bfloat16

from trtc.frontend.alibi import alibi_slopes, few_heads
from trtc.frontend.config import DecoderConfig, Keys
from trtc.frontend.families.base import Family, register
from trtc.frontend.families.gpt import NO_ROPE, gpt_config
from trtc.frontend.merged import qkv_parts, stored
from trtc.frontend.rope import read_rope
from trtc.frontend.weights import Wanted
from trtc.ir.op import Value

LAYER, OLD = "transformer.layers.{n}", "transformer.h.{n}"
SPELT = {"intermediate_size": "ffn_hidden_size", "hidden_act": "activation", "norm_eps": "layer_norm_epsilon"}


def falcon_config(keys: Keys) -> DecoderConfig:
    """The decoder's config of a Falcon checkpoint."""
    config = gpt_config(keys, SPELT)
    new = keys.get(bool, "new_decoder_architecture", default=False)
    beside = keys.get(bool, "parallel_attn", default=True)
    if new and not beside:
        raise keys.wrong("parallel_attn", False, "true, as new_decoder_architecture is")
    bias, alibi = keys.get(bool, "bias", default=False), keys.get(bool, "alibi", default=False)
    return replace(
        config,
        architecture="FalconForCausalLM",
        num_key_value_heads=_key_heads(keys, config.num_attention_heads, new),
        rope=NO_ROPE if alibi else read_rope(keys, config.head_dim, config.max_position_embeddings),
        alibi_slopes=_slopes(keys, config) if alibi else (),
        parallel_residual=beside,
        parallel_norms=_norms(keys) if new else 1,
        qkv_bias=bias,
        dense_bias=bias,
        mlp_bias=bias,
    )


def _key_heads(keys: Keys, heads: int, new: bool) -> int:
    if not new:
        return 1 if keys.get(bool, "multi_query", default=True) else heads
    kv_heads = keys.positive("num_kv_heads", default=heads)
    if heads % kv_heads:
        raise keys.wrong("num_kv_heads", kv_heads, f"a divisor of num_attention_heads, {heads}")
    return kv_heads


def _norms(keys: Keys) -> int:
    number = keys.positive("num_ln_in_parallel_attn", default=2)
    if number > 2:
        raise keys.wrong("num_ln_in_parallel_attn", number, "1 or 2")
    return number


def _slopes(keys: Keys, config: DecoderConfig) -> tuple[float, ...]:
    """Slopes as Falcon was trained with: rounded to bf16, and scaled together with the scores."""
    scale = 1 / math.sqrt(config.head_dim)
    heads = few_heads(keys, "num_attention_heads", config.num_attention_heads)
    return tuple(float(bfloat16(slope)) * scale for slope in alibi_slopes(heads))


def _first_norm(wanted: Wanted) -> Value:
    two = wanted.config.parallel_residual and wanted.config.parallel_norms == 2
    return wanted.fetch(f"{OLD}.{'ln_attn' if two else 'input_layernorm'}.{wanted.kind}", *wanted.shape)


def _second_norm(wanted: Wanted) -> Value:
    two = wanted.config.parallel_residual
    return wanted.fetch(f"{OLD}.{'ln_mlp' if two else 'post_attention_layernorm'}.{wanted.kind}", *wanted.shape)


FALCON = Family(
    name="Falcon 1, 2",
    architectures=("FalconForCausalLM",),
    features="parallel residual with one norm or two, one key head or groups, rope or ALiBi, layer norms, plain MLP",
    config=falcon_config,
    names={
        "transformer.vocab_embedding": "transformer.word_embeddings",
        f"{LAYER}.input_layernorm": _first_norm,
        **qkv_parts(LAYER, stored(f"{OLD}.self_attention.query_key_value"), grouped=True),
        f"{LAYER}.attention.dense": f"{OLD}.self_attention.dense",
        f"{LAYER}.post_layernorm": _second_norm,
        f"{LAYER}.mlp.fc": f"{OLD}.mlp.dense_h_to_4h",
        f"{LAYER}.mlp.proj": f"{OLD}.mlp.dense_4h_to_h",
        "transformer.ln_f": "transformer.ln_f",
        "lm_head": "lm_head",
    },
    prefix="transformer.",
)
register(FALCON)
