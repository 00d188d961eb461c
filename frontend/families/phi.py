"""Phi 1, 1.5 and 2: blocks in parallel under one norm, biases, of the head too. Li et al., 2023, arXiv:2309.05463."""

from __future__ import annotations

from dataclasses import replace

from trtc.frontend.config import DecoderConfig, Keys
from trtc.frontend.families.base import Family, register
from trtc.frontend.families.llama import NAMES, llama_config
from trtc.frontend.rope import read_rope, rotary_dim

LAYER, OLD = "transformer.layers.{n}", "model.layers.{n}"


def phi_config(keys: Keys) -> DecoderConfig:
    """The decoder's config of a Phi 1, 1.5 or 2 checkpoint."""
    config = llama_config(keys.over(hidden_act="gelu_new", layer_norm_eps=1e-5), eps="layer_norm_eps")
    turned = rotary_dim(keys, config.head_dim, default=0.5)
    return replace(
        config,
        architecture="PhiForCausalLM",
        rope=read_rope(keys, turned, config.max_position_embeddings),
        gated=False,
        norm="layer",
        norm_bias=True,
        parallel_residual=True,
        qk_norm="head" if keys.get(bool, "qk_layernorm", default=False) else "none",
        qkv_bias=True,
        dense_bias=True,
        mlp_bias=True,
        head_bias=True,
    )


PHI = Family(
    name="Phi 1, 1.5, 2",
    architectures=("PhiForCausalLM",),
    features="grouped heads, parallel residual, partial rope, layer norms, of q and k too, biases, of the head too",
    config=phi_config,
    names=NAMES
    | {
        f"{LAYER}.attention.dense": f"{OLD}.self_attn.dense",
        f"{LAYER}.attention.q_layernorm": f"{OLD}.self_attn.q_layernorm",
        f"{LAYER}.attention.k_layernorm": f"{OLD}.self_attn.k_layernorm",
        f"{LAYER}.mlp.fc": f"{OLD}.mlp.fc1",
        f"{LAYER}.mlp.proj": f"{OLD}.mlp.fc2",
        "transformer.ln_f": "model.final_layernorm",
    },
)
register(PHI)
