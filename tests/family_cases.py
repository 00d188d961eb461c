"""Tiny random checkpoints of the families over the generic decoder, beside LLaMA's in models.py."""

from __future__ import annotations

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
FAMILY_CASES = {case.name: case for case in (*MISTRAL, *QWEN2, *QWEN3)}
"""Two of every family at least, with every option of it in one of them; prompts longer than the windows."""

KNOWN.update(FAMILY_CASES)
