"""Tiny random checkpoints of the families that came before LLaMA: GPT-2's, those with slopes, those in parallel."""

from __future__ import annotations

from typing import Any

from models import Case

UNTIED, TIED = {"tie_word_embeddings": False}, {"tie_word_embeddings": True}
GPT2 = (
    Case("gpt2", {**TIED, "n_inner": 48}, dtype="bfloat16", model="GPT2", head="LMHeadModel"),
    Case("gpt2-untied-scaled-by-layer-head10", {
        "hidden_size": 40, "num_hidden_layers": 3, "scale_attn_by_inverse_layer_idx": True,
        "scale_attn_weights": False, "activation_function": "quick_gelu", "layer_norm_epsilon": 1e-3,
    }, lengths=(3, 9), model="GPT2", head="LMHeadModel"),
)   # fmt: skip
BIGCODE = (
    Case("bigcode-mqa", TIED, dtype="bfloat16", model="GPTBigCode"),
    Case("bigcode-mha-unscaled-head16", {
        "hidden_size": 64, "multi_query": False, "scale_attn_weights": False, "n_inner": 80,
        "activation_function": "gelu", "layer_norm_epsilon": 1e-3,
    }, lengths=(3, 9), model="GPTBigCode"),
)   # fmt: skip
OPT = (
    Case("opt", {**TIED, "ffn_dim": 48}, dtype="float16", model="OPT"),
    Case("opt-projected-after", {   # as 350m
        **TIED, "ffn_dim": 48, "word_embed_proj_dim": 20, "do_layer_norm_before": False,
    }, dtype="bfloat16", lengths=(3, 9), model="OPT"),
    Case("opt-unbiased-untied-plain-norms", {
        "ffn_dim": 64, "hidden_size": 64, "enable_bias": False, "layer_norm_elementwise_affine": False,
        "word_embed_proj_dim": 80, "activation_function": "gelu_fast",
    }, lengths=(11, 2), model="OPT"),
    Case("opt-no-final-norm", {"ffn_dim": 48, "_remove_final_layer_norm": True}, lengths=(3, 9), model="OPT"),
)   # fmt: skip
BLOOM = (
    Case("bloom", TIED, dtype="bfloat16", lengths=(11, 1, 4), model="Bloom"),
    Case("bloom-6-heads-residual-of-norm", {
        "hidden_size": 48, "num_attention_heads": 6, "layer_norm_epsilon": 1e-3,
        "apply_residual_connection_post_layernorm": True,
    }, lengths=(3, 9), model="Bloom"),
    Case("bloom-5-heads-of-10", {**TIED, "hidden_size": 50, "num_attention_heads": 5}, lengths=(3, 9), model="Bloom"),
)   # fmt: skip


def _mpt(**attention: Any) -> dict[str, Any]:
    return {"max_seq_len": 64, "attn_config": attention}


MPT = (
    Case("mpt", {**TIED, **_mpt()}, dtype="bfloat16", lengths=(11, 1, 4), model="Mpt"),
    Case("mpt-6-heads-clipped-scaled", {
        **_mpt(clip_qkv=0.625, softmax_scale=0.7, alibi_bias_max=5), "hidden_size": 48, "num_attention_heads": 6,
        "layer_norm_epsilon": 1e-3,
    }, lengths=(3, 9), model="Mpt"),
    Case("mpt-5-heads-of-10", {**_mpt(clip_qkv=2.0), "hidden_size": 50, "num_attention_heads": 5}, model="Mpt"),
)   # fmt: skip
FALCON = (
    Case("falcon-7b", {**TIED, "hidden_size": 64}, dtype="bfloat16", model="Falcon"),
    Case("falcon-40b-untied", {
        "hidden_size": 64, "new_decoder_architecture": True, "num_kv_heads": 2, "ffn_hidden_size": 80,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0},
    }, lengths=(3, 9), model="Falcon"),
    Case("falcon-11b-one-norm-bias", {
        "new_decoder_architecture": True, "num_kv_heads": 1, "num_ln_in_parallel_attn": 1, "bias": True,
        "activation": "relu",
    }, lengths=(3, 9), model="Falcon"),
    Case("falcon-rw", {
        **TIED, "alibi": True, "multi_query": False, "parallel_attn": False, "bias": True, "layer_norm_epsilon": 1e-3,
    }, lengths=(11, 1, 4), model="Falcon"),
)   # fmt: skip
GPTJ = (
    Case("gptj", {"rotary_dim": 4}, dtype="bfloat16", model="GPTJ"),
    Case("gptj-tied-head16-whole", {
        **TIED, "hidden_size": 64, "rotary_dim": 16, "n_inner": 48, "layer_norm_epsilon": 1e-3,
        "activation_function": "gelu",
    }, lengths=(3, 9), model="GPTJ"),
)   # fmt: skip
NEOX = (
    Case("neox-head16", {"hidden_size": 64}, dtype="bfloat16", model="GPTNeoX"),
    Case("neox-sequential-unbiased-tied", {
        **TIED, "use_parallel_residual": False, "attention_bias": False, "layer_norm_eps": 1e-3,
        "hidden_act": "gelu_pytorch_tanh",
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5},
    }, lengths=(3, 9), model="GPTNeoX"),
)   # fmt: skip
PHI = (
    Case("phi", {}, model="Phi"),
    Case("phi-qk-norm-gqa-head20", {
        "hidden_size": 80, "num_key_value_heads": 2, "qk_layernorm": True, "layer_norm_eps": 1e-3, **TIED,
        "hidden_act": "gelu",
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.4},
    }, dtype="bfloat16", lengths=(3, 9), model="Phi"),
)   # fmt: skip
NEMOTRON = (
    Case("nemotron-gqa", {"num_key_value_heads": 2}, dtype="bfloat16", model="Nemotron"),
    Case("nemotron-biases-head20-tied", {
        "head_dim": 20, "attention_bias": True, "mlp_bias": True, "norm_eps": 1e-3, **TIED, "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.3},
    }, lengths=(3, 9), model="Nemotron"),
)   # fmt: skip
GPT_CASES = (*GPT2, *BIGCODE, *OPT, *BLOOM, *MPT, *FALCON, *GPTJ, *NEOX, *PHI, *NEMOTRON)
