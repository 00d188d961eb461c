"""DeepSeek V2 and V3: latent attention, many small experts in groups, and one that every token goes to.

DeepSeek-AI, 2024, arXiv:2405.04434 and arXiv:2412.19437.
"""

from __future__ import annotations

import math
from dataclasses import replace

from trtc.frontend.config import DecoderConfig, Keys, MLAConfig, MoEConfig
from trtc.frontend.families.base import Family, register
from trtc.frontend.families.llama import llama_config
from trtc.frontend.families.mixtral import expert_counts
from trtc.frontend.families.qwen_moe import MOE_NAMES, THEIRS, shared_names

ATTENTION, ITS = "transformer.layers.{n}.attention", "model.layers.{n}.self_attn"
NAMES = (
    MOE_NAMES
    | shared_names(f"{THEIRS}.shared_experts")
    | {
        f"{ATTENTION}.{role}": f"{ITS}.{key}"
        for role, key in (
            ("q_a", "q_a_proj"), ("q_a_layernorm", "q_a_layernorm"), ("q_b", "q_b_proj"),
            ("kv_a", "kv_a_proj_with_mqa"), ("kv_a_layernorm", "kv_a_layernorm"), ("kv_b", "kv_b_proj"),
        )
    }
)   # fmt: skip


def deepseek_v2_config(keys: Keys) -> DecoderConfig:
    """The decoder's config of a DeepSeek V2 checkpoint."""
    keys = keys.over(
        q_lora_rank=1536, n_shared_experts=2, n_routed_experts=64, moe_intermediate_size=1407, first_k_dense_replace=0,
        routed_scaling_factor=1.0, topk_method="greedy", scoring_func="softmax", norm_topk_prob=False,
    )   # fmt: skip
    _fixed(keys, "scoring_func", "softmax")
    _fixed(keys, "norm_topk_prob", False)
    config, moe = _config(keys)
    method = keys.choice("topk_method", ("greedy", "group_limited_greedy"))
    groups = _groups(keys, moe, 1) if method == "group_limited_greedy" else moe
    return replace(config, architecture="DeepseekV2ForCausalLM", moe=groups)


def deepseek_v3_config(keys: Keys) -> DecoderConfig:
    """The decoder's config of a DeepSeek V3 or R1 checkpoint."""
    keys = keys.over(
        q_lora_rank=1536, n_shared_experts=1, n_routed_experts=256, num_experts_per_tok=8, moe_intermediate_size=2048,
        first_k_dense_replace=3, routed_scaling_factor=2.5, n_group=8, topk_group=4, topk_method="noaux_tc",
        scoring_func="sigmoid", norm_topk_prob=True,
    )   # fmt: skip
    _fixed(keys, "scoring_func", "sigmoid")
    _fixed(keys, "topk_method", "noaux_tc")
    config, moe = _config(keys)
    norm = keys.get(bool, "norm_topk_prob")
    moe = replace(_groups(keys, moe, 2), scoring="sigmoid", correction_bias=True, norm_topk_prob=norm)
    interleaved = keys.get(bool, "rope_interleave", default=True)
    rope = replace(config.rope, interleaved=interleaved)
    return replace(config, architecture="DeepseekV3ForCausalLM", rope=rope, moe=moe)


def _config(keys: Keys) -> tuple[DecoderConfig, MoEConfig]:
    keys = keys.over(qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, kv_lora_rank=512, moe_layer_freq=1)
    _fixed(keys, "moe_layer_freq", 1)
    still, turned = keys.positive("qk_nope_head_dim"), keys.positive("qk_rope_head_dim")
    latent_q = keys.positive("q_lora_rank") if keys.values["q_lora_rank"] is not None else 0
    mla = MLAConfig(keys.positive("kv_lora_rank"), latent_q, still, turned, keys.positive("v_head_dim"))
    config = llama_config(Keys({**keys.values, "head_dim": turned, "num_key_value_heads": None}, keys.file))
    layers, first = config.num_hidden_layers, keys.get(int, "first_k_dense_replace")
    width, shared = keys.positive("moe_intermediate_size"), keys.positive("n_shared_experts")
    moe = MoEConfig(
        tuple(range(max(first, 0), layers)), *expert_counts(keys, "n_routed_experts"), width, norm_topk_prob=False,
        routed_scaling_factor=keys.above(0, "routed_scaling_factor"), shared_intermediate_size=width * shared,
    )   # fmt: skip
    config = replace(
        config,
        head_dim=still + turned,
        attention_multiplier=_scale(config, still + turned),
        rope=replace(config.rope, interleaved=True),
        mlp_bias=False,
        mla=mla,
    )
    return config, moe


def _scale(config: DecoderConfig, size: int) -> float:
    """1 / sqrt(D), times mscale^2 where yarn stretches the context: cos and sin leave that factor to the scores."""
    p = config.rope.parameters or {}
    if not p.get("mscale_all_dim") or p["factor"] <= 1:
        return size**-0.5
    mscale = 0.1 * p["mscale_all_dim"] * math.log(p["factor"]) + 1
    return size**-0.5 * mscale * mscale


def _groups(keys: Keys, moe: MoEConfig, best: int) -> MoEConfig:
    """The same routing to the best of some groups; a group is as good as the sum of its ``best`` best experts."""
    groups, kept = keys.positive("n_group"), keys.positive("topk_group")
    if moe.num_experts % groups or (kept < groups and moe.num_experts // groups < best):
        want = f"a divisor of n_routed_experts, {moe.num_experts}, for groups of at least {best}"
        raise keys.wrong("n_group", groups, want)
    least = -(-groups * moe.num_experts_per_tok // moe.num_experts)
    if not least <= kept <= groups:
        raise keys.wrong("topk_group", kept, f"in {least}..{groups}, for {moe.num_experts_per_tok} experts a token")
    return replace(moe, n_group=groups, topk_group=kept, group_best=best)


def _fixed(keys: Keys, key: str, want: object) -> None:
    if keys.values[key] != want:
        raise keys.wrong(key, keys.values[key], f"{str(want).lower()}, as in every published checkpoint")


DEEPSEEK_V2 = Family(
    name="DeepSeek V2",
    architectures=("DeepseekV2ForCausalLM",),
    features="latent attention, mixture of experts by layer: softmax, in groups, shared experts; yarn",
    config=deepseek_v2_config,
    names=NAMES,
)
DEEPSEEK_V3 = Family(
    name="DeepSeek V3, R1",
    architectures=("DeepseekV3ForCausalLM",),
    features="as DeepSeek V2, experts by sigmoid with correction bias, renormalised",
    config=deepseek_v3_config,
    names=NAMES,
)
register(DEEPSEEK_V2)
register(DEEPSEEK_V3)
