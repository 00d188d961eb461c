"""Mistral: LLaMA with a sliding window in every layer. Jiang et al., 2023, arXiv:2310.06825."""

from __future__ import annotations

from dataclasses import replace

from trtc.frontend.config import DecoderConfig, Keys
from trtc.frontend.families.base import Family, register
from trtc.frontend.families.llama import NAMES, llama_config
from trtc.frontend.families.windows import read_windows


def mistral_config(keys: Keys) -> DecoderConfig:
    """The decoder's config of a Mistral checkpoint."""
    keys = keys.over(num_key_value_heads=8, max_position_embeddings=131072, sliding_window=4096)
    config = llama_config(keys)
    windows = read_windows(keys, config.num_hidden_layers, lambda _: True)
    return replace(config, architecture="MistralForCausalLM", windows=windows)


MISTRAL = Family(
    name="Mistral",
    architectures=("MistralForCausalLM",),
    features="as LLaMA, sliding window",
    config=mistral_config,
    names=NAMES,
)
register(MISTRAL)
