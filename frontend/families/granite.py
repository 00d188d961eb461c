"""Granite 3: LLaMA with four multipliers. IBM, Granite 3.0 Language Models, 2024."""

from __future__ import annotations

from dataclasses import replace

from trtc.frontend.config import DecoderConfig, Keys
from trtc.frontend.families.base import Family, register
from trtc.frontend.families.llama import NAMES, llama_config


def granite_config(keys: Keys) -> DecoderConfig:
    """The decoder's config of a Granite checkpoint."""
    return replace(
        llama_config(keys),
        architecture="GraniteForCausalLM",
        embedding_multiplier=keys.above(0, "embedding_multiplier", default=1.0),
        attention_multiplier=keys.above(0, "attention_multiplier", default=1.0),
        residual_multiplier=keys.above(0, "residual_multiplier", default=1.0),
        logits_multiplier=1 / keys.above(0, "logits_scaling", default=1.0),
    )


GRANITE = Family(
    name="Granite 3",
    architectures=("GraniteForCausalLM",),
    features="as LLaMA, multipliers of embeddings, scores, residuals and logits",
    config=granite_config,
    names=NAMES,
)
register(GRANITE)
