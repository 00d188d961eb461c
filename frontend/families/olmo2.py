"""OLMo 2: LLaMA with norms after each block, and of q and k over all heads. Walsh et al., 2024, arXiv:2501.00656."""

from __future__ import annotations

from dataclasses import replace

from trtc.frontend.config import DecoderConfig, Keys
from trtc.frontend.families.base import Family, register
from trtc.frontend.families.llama import NAMES, llama_config
from trtc.frontend.families.qwen import QK_NORMS


def olmo2_config(keys: Keys) -> DecoderConfig:
    """The decoder's config of an OLMo 2 checkpoint."""
    config = llama_config(keys.over(rms_norm_eps=1e-5))
    return replace(config, architecture="Olmo2ForCausalLM", norm_place="post", qk_norm="whole", mlp_bias=False)


OLMO2 = Family(
    name="OLMo 2",
    architectures=("Olmo2ForCausalLM",),
    features="as LLaMA, norms after each block, norms of q and k over all heads",
    config=olmo2_config,
    names=NAMES
    | QK_NORMS
    | {"transformer.layers.{n}.post_feedforward_layernorm": "model.layers.{n}.post_feedforward_layernorm"},
)
register(OLMO2)
