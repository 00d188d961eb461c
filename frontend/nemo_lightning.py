"""What NeMo 2 and Megatron Bridge say of a model, under the keys of NeMo 1.

Source: nemo/lightning/io (context/model.yaml: the arguments of the model's class, with those of its config) and
megatron/bridge/training/config.py (run_config.yaml); the fields are Megatron Core's TransformerConfig and NeMo's
GPTConfig, nemo/collections/llm/gpt/model/base.py.
"""

from __future__ import annotations

from typing import Any, cast

from trtc.errors import TrtcError
from trtc.frontend.config import Keys

CONFIGS = {"context/model.yaml": "config", "run_config.yaml": "model"}
"""The file, and the section of it that has the config's fields."""
SAME = (
    "num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups", "kv_channels",
    "layernorm_epsilon", "layernorm_zero_centered_gamma", "qk_layernorm", "window_size", "window_attn_skip_freq",
    "position_embedding_type", "rotary_base", "rotary_interleaved", "seq_len_interpolation_factor",
    "share_embeddings_and_output_weights", "num_moe_experts", "moe_router_topk", "moe_ffn_hidden_size",
    "moe_router_pre_softmax", "moe_router_score_function", "moe_router_topk_scaling_factor", "moe_router_num_groups",
    "moe_router_enable_expert_bias", "moe_layer_freq", "moe_shared_expert_intermediate_size",
    "bias_activation_fusion", "scale_factor", "low_freq_factor", "high_freq_factor", "old_context_len",
)   # fmt: skip
OTHERS = {
    "rotary_percent": "rotary_percentage", "seq_length": "encoder_seq_length", "add_bias_linear": "bias",
    "add_qkv_bias": "qkv_bias",
}   # fmt: skip
NEEDED = (
    "num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "seq_length", "normalization",
    "activation_func", "gated_linear_unit", "add_bias_linear", "position_embedding_type",
)   # fmt: skip
"""What has no default that all classes share."""
NORMS = {"RMSNorm": "rmsnorm", "LayerNorm": "layernorm"}
ACTS = {
    ("silu", True): "fast-swiglu", ("gelu", True): "fast-geglu", ("gelu", False): "gelu", ("relu", False): "relu",
    ("squared_relu", False): "squared-relu", ("relu", True): "fast-reglu",
}   # fmt: skip
"""By the function, and whether there is a second projection."""
MODELS = ("GPT", "Llama", "Mistral", "Mixtral", "Qwen2", "Qwen25", "Qwen3", "Nemotron", "Starcoder2")
"""What the classes of models begin with that are Megatron Core's GPT with nothing changed but the config."""
PLAIN = {
    "multi_latent_attention": False, "apply_residual_connection_post_layernorm": False, "softmax_scale": None,
    "heterogeneous_block_specs": False, "attention_output_gate": False, "mtp_num_layers": None, "no_rope_freq": None,
    "activation_func_clamp_value": None, "softmax_type": "vanilla",
}   # fmt: skip
"""Switches with the only positions that are supported."""


def translated(raw: dict[str, Any], file: str) -> Keys:
    """The keys of model_config.yaml that mean the same.

    Errors:
        TrtcError: the model is of a class that computes something else, or the file leaves out what it must say.
    """
    keys = Keys(raw, file).section(CONFIGS[file])
    if keys is None:
        raise TrtcError(f"{file}: {CONFIGS[file]} is missing")
    _check_class(raw if file.startswith("context/") else keys.values, keys)
    for key in NEEDED:
        if keys.values.get(key) is None:
            note = "help: the class of the config has it, but the file has not; export to Hugging Face's form"
            raise TrtcError(f"{file}: {keys.prefix}{key} is missing", note)
    for key, only in PLAIN.items():
        if keys.values.get(key, only) != only:
            raise keys.wrong(key, keys.values[key], str(only).lower() if only is not None else "null")
    norm = NORMS[keys.choice("normalization", NORMS)]
    act = (_function(keys), keys.get(bool, "gated_linear_unit"))
    if act not in ACTS:
        known = ", ".join(dict.fromkeys(name for name, _ in ACTS))
        raise keys.wrong("activation_func", keys.values["activation_func"], f"one of {known}")
    values = {key: keys.values[key] for key in SAME if key in keys.values}
    values |= {theirs: keys.values[ours] for ours, theirs in OTHERS.items() if ours in keys.values}
    values |= {"normalization": norm, "activation": ACTS[act], "max_position_embeddings": keys.values["seq_length"]}
    scaled = keys.values.get("old_context_len") is not None and keys.values.get("scale_factor") is not None
    return Keys({**values, "scale_positional_embedding": scaled}, file, keys.prefix)


def _check_class(stated: Any, keys: Keys) -> None:
    target = str(stated.get("_target_", "")).rpartition(".")[2]
    if not target.startswith(MODELS):
        raise TrtcError(f"{keys.file}: _target_ is {target:.60}, but must begin with one of {', '.join(MODELS)}")


def _function(keys: Keys) -> str:
    """The last part of the name of the activation, which may be an object's."""
    value: Any = keys.values["activation_func"]
    name: Any = cast("dict[str, Any]", value).get("_target_") if isinstance(value, dict) else value
    return str(name).rpartition(".")[2]
