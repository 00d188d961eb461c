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
FAMILY_CASES_MOE = {case.name: case for case in (*MIXTRAL, *QWEN2_MOE, *QWEN3_MOE)}

KNOWN.update(FAMILY_CASES_MOE)
