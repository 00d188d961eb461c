"""Tiny random checkpoints of newer families: merged products, longrope, local rope, partial interleaved rope."""

from __future__ import annotations

from typing import Any

from models import KNOWN, Case

FULL, SLIDING = "full_attention", "sliding_attention"


def longrope(pairs: int, **more: Any) -> dict[str, Any]:
    """Factors that differ from pair to pair, and between short and long sequences."""
    short, long = [1 + i / 8 for i in range(pairs)], [2.5 + i for i in range(pairs)]
    return {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": short, "long_factor": long, **more}


PHI3 = (
    Case("phi3-window5", {"num_key_value_heads": 2, "sliding_window": 5}, lengths=(11, 1, 4), model="Phi3"),
    Case("phi3-longrope-both-sides", {   # below what was trained, above it, and over it as it decodes
        "rope_parameters": longrope(4), "original_max_position_embeddings": 16, "tie_word_embeddings": True,
    }, dtype="bfloat16", lengths=(3, 20, 12), model="Phi3"),
    Case("phi3-longrope-partial-head16", {
        "hidden_size": 64, "num_key_value_heads": 1, "original_max_position_embeddings": 12,
        "rope_parameters": longrope(6, factor=8.0, attention_factor=1.2, partial_rotary_factor=0.75),
    }, dtype="float16", lengths=(13, 2), model="Phi3"),
    Case("phi3-longrope-below", {
        "rope_parameters": longrope(4), "original_max_position_embeddings": 60, "num_key_value_heads": 2,
    }, lengths=(9, 3), model="Phi3"),
)   # fmt: skip
GLM = (
    Case("glm-head16", {"hidden_size": 64, "num_key_value_heads": 2, "head_dim": 16}, dtype="bfloat16", model="Glm"),
    Case("glm-unbiased-head20", {
        "head_dim": 20, "num_key_value_heads": 1, "attention_bias": False, "tie_word_embeddings": True,
        "hidden_act": "gelu", "rope_parameters": {
            "rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0, "partial_rotary_factor": 0.4,
        },
    }, lengths=(3, 9), model="Glm"),
)   # fmt: skip
GLM4 = (
    Case("glm4-head16", {"head_dim": 16, "num_key_value_heads": 2}, dtype="float16", model="Glm4"),
    Case("glm4-unbiased", {
        "head_dim": 8, "num_key_value_heads": 4, "attention_bias": False, "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 1.0},
    }, lengths=(3, 9), model="Glm4"),
)   # fmt: skip
GEMMA3 = (
    Case("gemma3", {
        "num_hidden_layers": 3, "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 4,
        "tie_word_embeddings": True, "query_pre_attn_scalar": 24, "layer_types": [SLIDING, FULL, SLIDING],
        "rope_parameters": {
            FULL: {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
            SLIDING: {"rope_type": "default", "rope_theta": 100.0},
        },
    }, dtype="bfloat16", lengths=(11, 1, 4), model="Gemma3"),
    Case("gemma3-bias-cap-by-pattern", {
        "num_hidden_layers": 4, "sliding_window_pattern": 3, "num_key_value_heads": 1, "head_dim": 8,
        "sliding_window": 3, "attention_bias": True, "final_logit_softcapping": 0.7,
        "hidden_activation": "silu",
    }, dtype="float16", lengths=(9, 3), model="Gemma3"),
    Case("gemma3-text-and-images", {
        "num_hidden_layers": 2, "sliding_window_pattern": 2, "num_key_value_heads": 1, "head_dim": 16,
        "sliding_window": 3, "tie_word_embeddings": True,
    }, dtype="bfloat16", lengths=(9, 3), model="Gemma3", head="ForConditionalGeneration"),
    Case("gemma3-untied-text-and-images", {
        "num_hidden_layers": 2, "sliding_window_pattern": 2, "num_key_value_heads": 2, "head_dim": 8,
        "sliding_window": 2, "tie_word_embeddings": False,
    }, lengths=(3, 9), model="Gemma3", head="ForConditionalGeneration"),
)   # fmt: skip
CHATGLM = (
    Case("chatglm3-head16", {
        "hidden_size": 64, "num_key_value_heads": 2, "head_dim": 16,
    }, dtype="float16", model="Glm", published="ChatGLMModel"),
    Case("chatglm3-unbiased-ratio", {
        "head_dim": 12, "num_key_value_heads": 1, "attention_bias": False, "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0, "partial_rotary_factor": 0.5},
    }, lengths=(3, 9), model="Glm", published="ChatGLMModel"),
    *(Case(f"glm4-as-chatglm-{n}", {
        "head_dim": 8, "num_key_value_heads": n, "rms_norm_eps": 1.5625e-07,
    }, dtype="bfloat16", lengths=(4, 9), model="Glm", published="ChatGLMForConditionalGeneration") for n in (2, 4)),
)   # fmt: skip
INTERNLM2 = (
    Case("internlm2-gqa", {
        "num_key_value_heads": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    }, dtype="bfloat16", model="Llama", published="InternLM2ForCausalLM"),
    Case("internlm2-bias-dynamic", {
        "num_key_value_heads": 1, "attention_bias": True, "tie_word_embeddings": True, "max_position_embeddings": 12,
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}, "hidden_size": 64,
    }, dtype="float16", lengths=(10, 3, 14), model="Llama", published="InternLM2ForCausalLM"),
)   # fmt: skip
FAMILY_CASES_NEW = {case.name: case for case in (*PHI3, *GLM, *GLM4, *GEMMA3, *CHATGLM, *INTERNLM2)}

KNOWN.update(FAMILY_CASES_NEW)
