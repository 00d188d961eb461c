"""StableLM: layer norms, a part of each head turned, parallel blocks where asked for. Stability AI, 2023 and 2024."""

from __future__ import annotations

from dataclasses import replace

from trtc.frontend.config import DecoderConfig, Keys
from trtc.frontend.families.base import Family, register
from trtc.frontend.families.llama import NAMES, llama_config
from trtc.frontend.rope import read_rope, rotary_dim


def stablelm_config(keys: Keys) -> DecoderConfig:
    """The decoder's config of a StableLM checkpoint."""
    if keys.get(bool, "qk_layernorm", default=False):
        raise keys.wrong("qk_layernorm", True, "false: norms of q and k are not supported in this family")
    keys = keys.over(layer_norm_eps=1e-5, max_position_embeddings=4096)
    config = llama_config(keys, eps="layer_norm_eps")
    turned = rotary_dim(keys, config.head_dim, default=0.25)
    return replace(
        config,
        architecture="StableLmForCausalLM",
        norm="layer",
        norm_bias=True,
        qkv_bias=keys.get(bool, "use_qkv_bias", default=False),
        dense_bias=False,
        mlp_bias=False,
        parallel_residual=keys.get(bool, "use_parallel_residual", default=False),
        rope=read_rope(keys, turned, config.max_position_embeddings),
    )


STABLELM = Family(
    name="StableLM",
    architectures=("StableLmForCausalLM",),
    features="grouped heads, layer norms, partial rope, biases of q, k and v, parallel residual",
    config=stablelm_config,
    names=NAMES,
)
register(STABLELM)
