"""Gemma 1 and 2: LLaMA with GeGLU, norms by 1 + weight, scaled embeddings; 2 adds norms, caps and windows.

Gemma Team, 2024, arXiv:2403.08295 and arXiv:2408.00118.
"""

from __future__ import annotations

import math
from dataclasses import replace

from trtc.frontend.config import DecoderConfig, Keys
from trtc.frontend.families.base import Family, register
from trtc.frontend.families.llama import NAMES, llama_config
from trtc.frontend.families.windows import read_windows

TANH = "gelu_pytorch_tanh"
FEEDFORWARD_NORMS = {
    f"transformer.layers.{{n}}.{place}": f"model.layers.{{n}}.{place}"
    for place in ("pre_feedforward_layernorm", "post_feedforward_layernorm")
}


def gemma_config(keys: Keys) -> DecoderConfig:
    """The decoder's config of a Gemma 1 checkpoint; the first ones say gelu, and mean its approximation."""
    config = _config(keys.over(hidden_act=TANH), "hidden_act")
    return replace(
        config,
        architecture="GemmaForCausalLM",
        hidden_act=TANH if config.hidden_act == "gelu" else config.hidden_act,
    )


def gemma2_config(keys: Keys) -> DecoderConfig:
    """The decoder's config of a Gemma 2 checkpoint."""
    keys = keys.over(
        hidden_activation=TANH, num_key_value_heads=4, sliding_window=4096, attn_logit_softcapping=50.0,
        final_logit_softcapping=30.0,
    )   # fmt: skip
    config = _config(keys, "hidden_activation")
    return replace(
        config,
        architecture="Gemma2ForCausalLM",
        norm_place="both",
        windows=read_windows(keys, config.num_hidden_layers, lambda n: n % 2 == 0),
        attention_multiplier=keys.above(0, "query_pre_attn_scalar", default=256.0) ** -0.5,
        attention_softcap=_cap(keys, "attn_logit_softcapping"),
        logits_softcap=_cap(keys, "final_logit_softcapping"),
    )


def _config(keys: Keys, act: str) -> DecoderConfig:
    if keys.get(bool, "use_bidirectional_attention", default=False):
        raise keys.wrong("use_bidirectional_attention", True, "false: tokens see only what came before them")
    config = llama_config(keys.over(head_dim=256, max_position_embeddings=8192, tie_word_embeddings=True), act=act)
    scale = math.sqrt(config.hidden_size)
    return replace(
        config, mlp_bias=False, norm_offset=1.0, embedding_multiplier=scale, round_embedding_multiplier=True
    )


def _cap(keys: Keys, key: str) -> float:
    return 0.0 if keys.values.get(key) is None else keys.above(0, key)


GEMMA = Family(
    name="Gemma 1",
    architectures=("GemmaForCausalLM",),
    features="as LLaMA, GeGLU, norms by 1 + weight, scaled embeddings",
    config=gemma_config,
    names=NAMES,
)
GEMMA2 = Family(
    name="Gemma 2",
    architectures=("Gemma2ForCausalLM",),
    features="as Gemma 1, norms before and after each block, soft-caps, sliding windows by layer",
    config=gemma2_config,
    names=NAMES | FEEDFORWARD_NORMS,
)
register(GEMMA)
register(GEMMA2)
