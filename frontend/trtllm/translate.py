"""The format's keys under the names that families read: for checkpoints that say nothing else of the model."""

from __future__ import annotations

from typing import Any

from trtc.frontend.config import Keys

NAMES: dict[str, tuple[str, ...]] = {
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "num_key_value_heads": ("num_key_value_heads", "num_kv_heads"),
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"),
    "head_size": ("head_dim",),
    "max_position_embeddings": ("max_position_embeddings", "n_positions", "max_seq_len"),
    "norm_epsilon": ("norm_epsilon", "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon"),
    "hidden_act": ("hidden_act", "activation_function", "hidden_activation"),
    "rotary_base": ("rope_theta", "rotary_emb_base"),
    "rotary_scaling": ("rope_scaling",),
    "rotary_pct": ("rotary_pct", "partial_rotary_factor"),
    "rotary_embedding_dim": ("rotary_dim",),
    "attn_bias": ("attention_bias", "use_qkv_bias", "use_bias"),
    "mlp_bias": ("mlp_bias",),
    "qk_layernorm": ("use_qk_norm", "qk_layernorm"),
    "parallel_attention": ("parallel_attn",),
}
"""By the format's key."""
ABSENT = {"MistralForCausalLM": {"sliding_window": None}, "MixtralForCausalLM": {"sliding_window": None}}
"""What a model is without, where the format says nothing, but Hugging Face's defaults would have it."""
MOE = {"num_experts": ("num_local_experts", "num_experts"), "top_k": ("num_experts_per_tok",)}


def huggingface_keys(keys: Keys) -> Keys:
    """The same config as Hugging Face's families spell it; what the format leaves out is not there."""
    found: dict[str, Any] = dict(ABSENT.get(keys.get(str, "architecture"), {}))
    for key, value in keys.values.items():
        if value is not None:
            found.update(dict.fromkeys(NAMES.get(key, (key,)), value))
    size = keys.get(int, "head_size", default=0) or keys.get(int, "hidden_size") // keys.get(int, "num_attention_heads")
    if (turned := keys.get(int, "rotary_embedding_dim", default=0)) and size and turned != size:
        found["partial_rotary_factor"] = found["rotary_pct"] = turned / size
    if moe := keys.section("moe"):
        for key, names in MOE.items():
            if moe.values.get(key) is not None:
                found.update(dict.fromkeys(names, moe.values[key]))
    return Keys(found, keys.file)
