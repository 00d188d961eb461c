"""Qwen 2 and 3: LLaMA with windows in the last layers; biases of q, k and v, or norms of q and k by head.

Yang et al., 2024, arXiv:2407.10671 and 2025, arXiv:2505.09388.
"""

from __future__ import annotations

from dataclasses import replace

from trtc.frontend.config import DecoderConfig, Keys
from trtc.frontend.families.base import Family, register
from trtc.frontend.families.llama import NAMES, llama_config
from trtc.frontend.families.windows import read_windows

QK_NORMS = {
    "transformer.layers.{n}.attention.q_layernorm": "model.layers.{n}.self_attn.q_norm",
    "transformer.layers.{n}.attention.k_layernorm": "model.layers.{n}.self_attn.k_norm",
}


def qwen2_config(keys: Keys) -> DecoderConfig:
    """The decoder's config of a Qwen 2 or 2.5 checkpoint."""
    config = replace(_config(keys), architecture="Qwen2ForCausalLM")
    return replace(config, qkv_bias=True, dense_bias=False, mlp_bias=False)


def qwen3_config(keys: Keys) -> DecoderConfig:
    """The decoder's config of a Qwen 3 checkpoint."""
    config = _config(keys.over(head_dim=128))
    return replace(config, architecture="Qwen3ForCausalLM", qk_norm="head", mlp_bias=False)


def _config(keys: Keys) -> DecoderConfig:
    keys = keys.over(num_key_value_heads=32, max_position_embeddings=32768, sliding_window=4096)
    config = llama_config(keys)
    first = keys.get(int, "max_window_layers", default=28)
    used = keys.get(bool, "use_sliding_window", default=False)
    return replace(config, windows=read_windows(keys, config.num_hidden_layers, lambda n: n >= first, used=used))


QWEN2 = Family(
    name="Qwen 2, 2.5",
    architectures=("Qwen2ForCausalLM",),
    features="as LLaMA, biases of q, k and v, sliding windows by layer",
    config=qwen2_config,
    names=NAMES,
)
QWEN3 = Family(
    name="Qwen 3",
    architectures=("Qwen3ForCausalLM",),
    features="as LLaMA, norms of q and k by head, sliding windows by layer",
    config=qwen3_config,
    names=NAMES | QK_NORMS,
)
register(QWEN2)
register(QWEN3)
