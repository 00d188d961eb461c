"""Baichuan 1 and 2: LLaMA with q, k and v in one tensor; 13B with slopes. Yang et al., 2023, arXiv:2309.10305."""

from __future__ import annotations

from dataclasses import replace

from trtc.frontend.alibi import alibi_slopes, few_heads
from trtc.frontend.config import DecoderConfig, Keys
from trtc.frontend.families.base import Family, register
from trtc.frontend.families.gpt import NO_ROPE
from trtc.frontend.families.llama import NAMES, llama_config
from trtc.frontend.layers import cast
from trtc.frontend.merged import qkv_parts, stored
from trtc.frontend.weights import Wanted
from trtc.ir.op import Value
from trtc.ir.ops import Div, Maximum, Mul, ReduceSum, Sqrt, scalar
from trtc.ir.types import f32

WIDTHS = {"7B": 4096, "13B": 5120}
SHORTEST = 1e-12   # the least length that a row of the head is divided by


def baichuan_config(keys: Keys) -> DecoderConfig:
    """The decoder's config of a Baichuan checkpoint, which says nowhere what its positions and its head are.

    13B has slopes and no ``max_position_embeddings``, 7B turns heads; 2 has ``z_loss_weight``, and a normalised head.
    """
    keys = keys.over(model_max_length=4096)
    config = llama_config(keys)
    slopes = config.hidden_size == WIDTHS["13B"] or (
        config.hidden_size != WIDTHS["7B"] and "max_position_embeddings" not in keys.values
    )
    if slopes:
        config = replace(
            config,
            rope=NO_ROPE,
            alibi_slopes=alibi_slopes(few_heads(keys, "num_attention_heads", config.num_attention_heads)),
            max_position_embeddings=keys.positive("model_max_length"),
        )
    return replace(config, architecture="BaichuanForCausalLM", normal_head="z_loss_weight" in keys.values)


def _head(wanted: Wanted) -> Value:
    """The head's weight; in Baichuan 2 each row divided by its length."""
    weight = wanted.fetch("lm_head.weight", *wanted.shape)
    if not wanted.config.normal_head:
        return weight
    rows = cast(weight, f32)
    length = Sqrt(ReduceSum(Mul(rows, rows), 1))
    return Div(rows, Maximum(length, scalar(SHORTEST, f32)))


BAICHUAN = Family(
    name="Baichuan 1, 2",
    architectures=("BaichuanForCausalLM", "BaiChuanForCausalLM"),
    features="as LLaMA without grouped heads, rope or ALiBi, normalised head",
    config=baichuan_config,
    names=NAMES | qkv_parts("transformer.layers.{n}", stored("model.layers.{n}.self_attn.W_pack")) | {"lm_head": _head},
)
register(BAICHUAN)
