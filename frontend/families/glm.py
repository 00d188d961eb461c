"""GLM-4: LLaMA with half of each head turned, pairs of neighbours; the newer one has norms after each block, too.

GLM Team, ChatGLM: A Family of Large Language Models, 2024, arXiv:2406.12793.
"""

from __future__ import annotations

from dataclasses import replace

from trtc.frontend.config import DecoderConfig, Keys
from trtc.frontend.families.base import Family, register
from trtc.frontend.families.llama import NAMES, llama_config
from trtc.frontend.families.phi3 import GATE_UP
from trtc.frontend.rope import read_rope, rotary_dim

LAYER, THEIRS = "transformer.layers.{n}", "model.layers.{n}"


def glm_config(keys: Keys) -> DecoderConfig:
    """The decoder's config of a GLM-4 checkpoint, of transformers' form."""
    keys = keys.over(
        num_key_value_heads=2, head_dim=128, max_position_embeddings=131072, rms_norm_eps=1.5625e-7,
        attention_bias=True,
    )   # fmt: skip
    config = llama_config(keys)
    turned = rotary_dim(keys, config.head_dim, default=0.5)
    return replace(
        config,
        architecture="GlmForCausalLM",
        dense_bias=False,
        mlp_bias=False,
        rope=read_rope(keys, turned, config.max_position_embeddings, interleaved=True),
    )


def glm4_config(keys: Keys) -> DecoderConfig:
    """The decoder's config of a GLM-4-0414 checkpoint."""
    return replace(glm_config(keys), architecture="Glm4ForCausalLM", norm_place="both")


GLM = Family(
    name="GLM-4",
    architectures=("GlmForCausalLM",),
    features="as LLaMA, merged gate and up, biases of q, k and v, partial interleaved rope",
    config=glm_config,
    names=NAMES | GATE_UP,
)
GLM4 = Family(
    name="GLM-4-0414",
    architectures=("Glm4ForCausalLM",),
    features="as GLM-4, norms before and after each block",
    config=glm4_config,
    names=NAMES
    | GATE_UP
    | {
        f"{LAYER}.post_layernorm": f"{THEIRS}.post_self_attn_layernorm",
        f"{LAYER}.pre_feedforward_layernorm": f"{THEIRS}.post_attention_layernorm",
        f"{LAYER}.post_feedforward_layernorm": f"{THEIRS}.post_mlp_layernorm",
    },
)
register(GLM)
register(GLM4)
