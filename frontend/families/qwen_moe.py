"""Qwen 2 and 3 with experts; in Qwen 2 one expert more for every token.

Yang et al., 2024, arXiv:2407.10671 and 2025, arXiv:2505.09388.
"""

from __future__ import annotations

from dataclasses import replace

from trtc.frontend.config import DecoderConfig, Keys, MoEConfig
from trtc.frontend.experts import PARTS, Block
from trtc.frontend.families.base import Family, register
from trtc.frontend.families.llama import NAMES, llama_config
from trtc.frontend.families.mixtral import ROUTER, expert_counts
from trtc.frontend.families.qwen import QK_NORMS
from trtc.frontend.families.windows import read_windows

MLP, THEIRS = "transformer.layers.{n}.mlp", "model.layers.{n}.mlp"
MOE_NAMES = NAMES | Block(f"{THEIRS}.experts", dense=THEIRS).entries() | {ROUTER: f"{THEIRS}.gate"}


def shared_names(key: str) -> dict[str, str]:
    """The weights of the expert that every token goes to."""
    projections = ("gate_proj", "up_proj", "down_proj")
    return {f"{MLP}.shared_expert.{part}": f"{key}.{name}" for part, name in zip(PARTS, projections, strict=True)}


def qwen2_moe_config(keys: Keys) -> DecoderConfig:
    """The decoder's config of a Qwen 1.5 or 2 checkpoint with experts."""
    keys = keys.over(
        num_key_value_heads=16, sliding_window=4096, moe_intermediate_size=1408, num_experts=60, num_experts_per_tok=4,
        shared_expert_intermediate_size=5632, qkv_bias=True,
    )   # fmt: skip
    config, moe = _config(keys)
    first, used = keys.get(int, "max_window_layers", default=28), keys.get(bool, "use_sliding_window", default=False)
    shared = keys.positive("shared_expert_intermediate_size")
    return replace(
        config,
        architecture="Qwen2MoeForCausalLM",
        qkv_bias=keys.get(bool, "qkv_bias"),
        dense_bias=False,
        windows=read_windows(keys, config.num_hidden_layers, lambda n: n % 2 == 0 and n < first, used=used),
        moe=replace(moe, shared_intermediate_size=shared, shared_gate=True),
    )


def qwen3_moe_config(keys: Keys) -> DecoderConfig:
    """The decoder's config of a Qwen 3 checkpoint with experts."""
    keys = keys.over(
        num_key_value_heads=4, sliding_window=4096, moe_intermediate_size=768, num_experts=128, num_experts_per_tok=8,
    )   # fmt: skip
    config, moe = _config(keys)
    used = keys.get(bool, "use_sliding_window", default=False)
    windows = read_windows(keys, config.num_hidden_layers, lambda _: True, used=used)
    return replace(config, architecture="Qwen3MoeForCausalLM", qk_norm="head", windows=windows, moe=moe)


def _config(keys: Keys) -> tuple[DecoderConfig, MoEConfig]:
    config = llama_config(keys.over(max_position_embeddings=32768))
    layers = _sparse(keys, config.num_hidden_layers)
    new = "num_local_experts"   # of Qwen 3 in transformers 5
    counts = expert_counts(keys, new if keys.values.get(new) is not None else "num_experts")
    width = keys.positive("moe_intermediate_size")
    norm = keys.get(bool, "norm_topk_prob", default=False)
    return replace(config, mlp_bias=False), MoEConfig(layers, *counts, width, norm_topk_prob=norm)


def _sparse(keys: Keys, layers: int) -> tuple[int, ...]:
    """The layers with experts: every ``decoder_sparse_step``-th but for ``mlp_only_layers``."""
    step = keys.positive("decoder_sparse_step", default=1)
    dense = keys.integers("mlp_only_layers")
    return tuple(n for n in range(layers) if (n + 1) % step == 0 and n not in dense)


QWEN2_MOE = Family(
    name="Qwen 1.5, 2 MoE",
    architectures=("Qwen2MoeForCausalLM",),
    features="as Qwen 2, mixture of experts by layer: softmax, renormalised or not, gated shared expert",
    config=qwen2_moe_config,
    names=MOE_NAMES
    | shared_names(f"{THEIRS}.shared_expert")
    | {f"{MLP}.shared_expert_gate": f"{THEIRS}.shared_expert_gate"},
)
QWEN3_MOE = Family(
    name="Qwen 3 MoE",
    architectures=("Qwen3MoeForCausalLM",),
    features="as Qwen 3, mixture of experts by layer: softmax, renormalised or not",
    config=qwen3_moe_config,
    names=MOE_NAMES | QK_NORMS,
)
register(QWEN2_MOE)
register(QWEN3_MOE)
