"""Cohere's Command R: layer norms, blocks in parallel, pairs of neighbours turned, scaled logits. Cohere, 2024."""

from __future__ import annotations

from dataclasses import replace

from trtc.frontend.config import DecoderConfig, Keys
from trtc.frontend.families.base import Family, register
from trtc.frontend.families.llama import NAMES, llama_config
from trtc.frontend.families.qwen import QK_NORMS


def cohere_config(keys: Keys) -> DecoderConfig:
    """The decoder's config of a Cohere checkpoint."""
    keys = keys.over(
        layer_norm_eps=1e-5, max_position_embeddings=8192, tie_word_embeddings=True, rope_theta=500000.0,
        logit_scale=0.0625,
    )   # fmt: skip
    config = llama_config(keys, eps="layer_norm_eps")
    return replace(
        config,
        architecture="CohereForCausalLM",
        norm="layer",
        mlp_bias=False,
        parallel_residual=True,
        qk_norm="each" if keys.get(bool, "use_qk_norm", default=False) else "none",
        rope=replace(config.rope, interleaved=True),
        logits_multiplier=keys.above(0, "logit_scale"),
    )


COHERE = Family(
    name="Cohere Command R",
    architectures=("CohereForCausalLM",),
    features="grouped heads, layer norms, parallel residual, interleaved rope, norms of q and k by head, scaled logits",
    config=cohere_config,
    names=NAMES | QK_NORMS,
)
register(COHERE)
