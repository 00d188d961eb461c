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
    "norm_epsilon": ("norm_epsilon", "norm_eps", "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon"),
    "hidden_act": ("hidden_act", "activation_function", "hidden_activation", "activation"),
    "rotary_base": ("rope_theta", "rotary_emb_base"),
    "rotary_scaling": ("rope_scaling",),
    "rotary_pct": ("rotary_pct", "partial_rotary_factor"),
    "rotary_embedding_dim": ("rotary_dim",),
    "attn_bias": ("attention_bias", "use_qkv_bias", "use_bias"),
    "mlp_bias": ("mlp_bias",),
    "qk_layernorm": ("use_qk_norm", "qk_layernorm"),
    "parallel_attention": ("parallel_attn",),
    "output_multiplier_scale": ("logit_scale",),
}
"""By the format's key."""
ABSENT = {"MistralForCausalLM": {"sliding_window": None}, "MixtralForCausalLM": {"sliding_window": None}}
"""What a model is without, where the format says nothing, but Hugging Face's defaults would have it."""
CAPS = ("attn_logit_softcapping", "final_logit_softcapping")   # null is none, not the family's default
MOE = {"num_experts": ("num_local_experts", "num_experts"), "top_k": ("num_experts_per_tok",)}
"""By the key of ``moe``; before there was such an object, ``moe_`` stood before each."""


def huggingface_keys(keys: Keys) -> Keys:
    """The same config as Hugging Face's families spell it; what the format leaves out is not there."""
    found: dict[str, Any] = dict(ABSENT.get(keys.get(str, "architecture"), {}))
    for key, value in keys.values.items():
        if value is not None or key in CAPS:
            found.update(dict.fromkeys(NAMES.get(key, (key,)), value))
    heads = keys.get(int, "num_attention_heads")
    size = keys.get(int, "head_size", default=keys.get(int, "hidden_size") // heads)
    found["multi_query"] = heads > 1 == keys.get(int, "num_key_value_heads", default=heads)
    found["alibi"] = keys.get(str, "position_embedding_type", default="").startswith("alibi")
    if size:
        found["head_dim"] = size
        turned = keys.get(int, "rotary_embedding_dim", default=size)
        found |= dict.fromkeys(NAMES["rotary_pct"], turned / size) if turned != size else {}
    if scale := keys.get(float, "output_multiplier_scale", default=0.0):
        found["logits_scaling"] = 1 / scale
    moe = keys.section("moe")
    stated = moe.values if moe else {key: keys.values.get(f"moe_{key}") for key in MOE}
    given = {name: stated.get(key) for key, names in MOE.items() for name in names}
    found |= {name: value for name, value in given.items() if value}   # 0 where a model has none
    return Keys(found, keys.file)
