"""Tiny random checkpoints of families with experts or latent attention."""

from __future__ import annotations

from models import KNOWN, Case

FULL, SLIDING = "full_attention", "sliding_attention"
MIXTRAL = (
    Case("mixtral", {"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2},
         dtype="bfloat16", model="Mixtral"),
    Case("mixtral-window5-3of5-tied", {
        "num_key_value_heads": 1, "head_dim": 16, "sliding_window": 5, "num_local_experts": 5, "num_experts_per_tok": 3,
        "tie_word_embeddings": True,
    }, lengths=(11, 1, 4), model="Mixtral", stacked=True),
)   # fmt: skip
QWEN2_MOE = (
    Case("qwen2-moe", {
        "num_key_value_heads": 2, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 40,
    }, dtype="bfloat16", model="Qwen2Moe"),
    Case("qwen2-moe-norm-dense-layers-windows", {
        "num_hidden_layers": 4, "num_key_value_heads": 1, "num_experts": 6, "num_experts_per_tok": 4,
        "moe_intermediate_size": 12, "shared_expert_intermediate_size": 20, "norm_topk_prob": True,
        "decoder_sparse_step": 2, "mlp_only_layers": [3], "qkv_bias": False, "use_sliding_window": True,
        "sliding_window": 4, "max_window_layers": 3,
    }, dtype="float16", lengths=(3, 9), model="Qwen2Moe", stacked=True),
)   # fmt: skip
QWEN3_MOE = (
    Case("qwen3-moe-head16", {
        "num_key_value_heads": 2, "head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
    }, dtype="float16", model="Qwen3Moe"),
    Case("qwen3-moe-norm-dense-layer-bias", {
        "num_hidden_layers": 3, "num_key_value_heads": 1, "num_experts": 8, "num_experts_per_tok": 3,
        "moe_intermediate_size": 12, "norm_topk_prob": True, "mlp_only_layers": [1], "attention_bias": True,
        "use_sliding_window": True, "sliding_window": 3, "tie_word_embeddings": True,
    }, lengths=(3, 9), model="Qwen3Moe", stacked=True),
)   # fmt: skip
MLA = {"kv_lora_rank": 12, "q_lora_rank": 20, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
DEEPSEEK_V2 = (
    Case("deepseek-v2-lite", {
        **MLA, "q_lora_rank": None, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12,
        "n_shared_experts": 2, "first_k_dense_replace": 1,
    }, dtype="bfloat16", model="DeepseekV2"),
    Case("deepseek-v2-groups-yarn-bias", {
        **MLA, "n_routed_experts": 12, "num_experts_per_tok": 3, "moe_intermediate_size": 12, "n_shared_experts": 1,
        "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2, "routed_scaling_factor": 1.5,
        "attention_bias": True, "tie_word_embeddings": True,
        "rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 0.9},
    }, dtype="float16", lengths=(3, 20), model="DeepseekV2", stacked=True),
)   # fmt: skip
DEEPSEEK_V3 = (
    Case("deepseek-v3-groups-yarn", {
        **MLA, "n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 12, "n_shared_experts": 1,
        "n_group": 4, "topk_group": 2, "first_k_dense_replace": 1,
        "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0, "beta_fast": 32, "beta_slow": 1},
    }, dtype="bfloat16", lengths=(3, 20), model="DeepseekV3"),
    Case("deepseek-v3-one-group-halves-bias-head16", {
        **MLA, "q_lora_rank": None, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 16,
        "n_routed_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "n_shared_experts": 3,
        "n_group": 1, "topk_group": 1, "first_k_dense_replace": 0, "norm_topk_prob": False, "rope_interleave": False,
        "routed_scaling_factor": 1.3, "attention_bias": True, "tie_word_embeddings": True,
    }, lengths=(3, 9), model="DeepseekV3", stacked=True),
)   # fmt: skip
FAMILY_CASES_MOE = {case.name: case for case in (*MIXTRAL, *QWEN2_MOE, *QWEN3_MOE, *DEEPSEEK_V2, *DEEPSEEK_V3)}

KNOWN.update(FAMILY_CASES_MOE)
