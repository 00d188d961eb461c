"""Nemotron 3 and 4, Minitron: layer norms by 1 + weight, squared ReLU. Parmar et al., 2024, arXiv:2402.16819."""

from __future__ import annotations

from dataclasses import replace

from trtc.frontend.config import DecoderConfig, Keys
from trtc.frontend.families.base import Family, register
from trtc.frontend.families.llama import NAMES, llama_config
from trtc.frontend.rope import read_rope, rotary_dim


def nemotron_config(keys: Keys) -> DecoderConfig:
    """The decoder's config of a Nemotron checkpoint."""
    keys = keys.over(hidden_act="relu2", norm_eps=1e-5, max_position_embeddings=4096)
    config = llama_config(keys, eps="norm_eps")
    turned = rotary_dim(keys, config.head_dim, default=0.5)
    return replace(
        config,
        architecture="NemotronForCausalLM",
        rope=read_rope(keys, turned, config.max_position_embeddings),
        gated=False,
        norm="layer",
        norm_bias=True,
        norm_offset=1.0,
    )


NEMOTRON = Family(
    name="Nemotron",
    architectures=("NemotronForCausalLM",),
    features="grouped heads, layer norms by 1 + weight, squared ReLU, partial rope",
    config=nemotron_config,
    names=NAMES | {"transformer.layers.{n}.mlp.fc": "model.layers.{n}.mlp.up_proj"},
)
register(NEMOTRON)
