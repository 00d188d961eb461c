"""Tiny random checkpoints of the families over the generic decoder, beside LLaMA's in models.py."""

from __future__ import annotations

from gpt_cases import GPT_CASES
from models import KNOWN, Case

FULL, SLIDING = "full_attention", "sliding_attention"
MISTRAL = (
    Case("mistral-window5", {"num_key_value_heads": 2, "sliding_window": 5}, lengths=(11, 1, 4), model="Mistral"),
    Case("mistral-no-window-head16", {
        "num_key_value_heads": 1, "head_dim": 16, "sliding_window": None, "tie_word_embeddings": True,
    }, dtype="bfloat16", model="Mistral"),
    Case("mistral-window2-head10", {
        "hidden_size": 40, "sliding_window": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    }, dtype="float16", lengths=(3, 9), model="Mistral"),
)   # fmt: skip
QWEN2 = (
    Case("qwen2", {"num_key_value_heads": 2, "tie_word_embeddings": True}, dtype="bfloat16", model="Qwen2"),
    Case("qwen2-windows-by-number", {
        "num_hidden_layers": 3, "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1,
        "hidden_size": 64,
    }, lengths=(17, 2, 5), model="Qwen2"),
    Case("qwen2-windows-by-list", {
        "num_hidden_layers": 3, "use_sliding_window": True, "sliding_window": 4, "num_key_value_heads": 1,
        "layer_types": [SLIDING, FULL, SLIDING],
        "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16,
        },
    }, dtype="float16", lengths=(5, 20), model="Qwen2"),
)   # fmt: skip
QWEN3 = (
    Case("qwen3", {"num_key_value_heads": 2, "head_dim": 16}, model="Qwen3"),
    Case("qwen3-bias-head20-windows", {
        "num_key_value_heads": 1, "head_dim": 20, "attention_bias": True, "tie_word_embeddings": True,
        "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1,
    }, dtype="float16", lengths=(13, 1, 6), model="Qwen3"),
)   # fmt: skip
OLMO2 = (
    Case("olmo2", {"num_key_value_heads": 2, "head_dim": 16}, dtype="bfloat16", model="Olmo2"),
    Case("olmo2-bias-mha-head10", {
        "hidden_size": 40, "attention_bias": True, "tie_word_embeddings": True, "hidden_act": "gelu",
        "rope_parameters": {"rope_type": "linear", "rope_theta": 500000.0, "factor": 2.0},
    }, lengths=(3, 9), model="Olmo2"),
)   # fmt: skip
GRANITE = (
    Case("granite", {
        "embedding_multiplier": 12.0, "attention_multiplier": 0.4, "residual_multiplier": 0.22, "logits_scaling": 0.8,
        "num_key_value_heads": 2,
    }, dtype="bfloat16", model="Granite"),
    Case("granite-biases-tied-head20", {
        "embedding_multiplier": 3.3, "attention_multiplier": 0.015625, "logits_scaling": 1.7, "head_dim": 20,
        "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "hidden_act": "gelu_pytorch_tanh",
    }, lengths=(3, 9), model="Granite"),
)   # fmt: skip
GEMMA = (
    Case("gemma-mqa", {
        "num_key_value_heads": 1, "head_dim": 16, "hidden_act": "gelu", "tie_word_embeddings": True,
    }, dtype="bfloat16", model="Gemma"),
    Case("gemma-bias-head10", {
        "hidden_size": 40, "head_dim": 10, "attention_bias": True, "num_key_value_heads": 2,
        "hidden_act": "gelu_pytorch_tanh",
    }, dtype="float16", lengths=(3, 9), model="Gemma"),
)   # fmt: skip
GEMMA2 = (
    Case("gemma2", {
        "num_hidden_layers": 3, "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 4,
        "tie_word_embeddings": True, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 0.7,
        "query_pre_attn_scalar": 24,
    }, dtype="bfloat16", lengths=(11, 1, 4), model="Gemma2"),
    Case("gemma2-uncapped-bias-windows-by-list", {
        "num_key_value_heads": 1, "head_dim": 10, "hidden_size": 40, "sliding_window": 3, "attention_bias": True,
        "layer_types": [FULL, SLIDING], "attn_logit_softcapping": None, "final_logit_softcapping": None,
        "query_pre_attn_scalar": 7, "hidden_activation": "silu",
    }, dtype="float16", lengths=(3, 9), model="Gemma2"),
)   # fmt: skip
STARCODER2 = (
    Case("starcoder2-window4", {"num_key_value_heads": 2, "sliding_window": 4, "tie_word_embeddings": True},
         dtype="bfloat16", lengths=(11, 1, 4), model="Starcoder2"),
    Case("starcoder2-unbiased-head10", {
        "hidden_size": 40, "use_bias": False, "norm_epsilon": 1e-3, "hidden_act": "gelu",
    }, lengths=(3, 9), model="Starcoder2"),
)   # fmt: skip
STABLELM = (
    Case("stablelm-head64", {
        "hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1,
    }, dtype="bfloat16", model="StableLm"),
    Case("stablelm-parallel-bias-head16", {
        "hidden_size": 64, "use_qkv_bias": True, "use_parallel_residual": True, "tie_word_embeddings": True,
        "layer_norm_eps": 1e-3, "num_key_value_heads": 1, "rope_parameters": {
            "rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5,
        },
    }, dtype="float16", lengths=(3, 9), model="StableLm"),
    Case("stablelm-qk-norm", {
        "hidden_size": 64, "num_key_value_heads": 2, "qk_layernorm": True,
    }, lengths=(3, 9), model="StableLm"),
)   # fmt: skip
COHERE = (
    Case("cohere-head16", {
        "hidden_size": 64, "num_key_value_heads": 2, "logit_scale": 1.25, "tie_word_embeddings": True,
    }, dtype="bfloat16", model="Cohere"),
    Case("cohere-qk-norm-bias", {
        "num_key_value_heads": 2, "use_qk_norm": True, "attention_bias": True, "layer_norm_eps": 1e-3,
        "logit_scale": 0.75,
    }, dtype="float16", lengths=(3, 9), model="Cohere"),
)   # fmt: skip
FAMILY_CASES = {
    case.name: case
    for case in (
        *MISTRAL, *QWEN2, *QWEN3, *OLMO2, *GRANITE, *GEMMA, *GEMMA2, *STARCODER2, *STABLELM, *COHERE,
        *GPT_CASES,
    )
}   # fmt: skip
"""Two of every family at least, with every option of it in one of them; prompts longer than the windows."""

KNOWN.update(FAMILY_CASES)
