"""config.json of a checkpoint, as trtc writes it: the format's own fields, and what they cannot say."""

from __future__ import annotations

from typing import Any

from trtc.frontend.config import DecoderConfig
from trtc.frontend.trtllm.fields import written
from trtc.frontend.trtllm.layout import Mapping
from trtc.frontend.trtllm.schema import defaults

VERSION = 1
STANDARD = {
    "architecture": "architecture", "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads", "num_key_value_heads": "num_key_value_heads",
    "hidden_size": "hidden_size", "intermediate_size": "intermediate_size", "vocab_size": "vocab_size",
    "max_position_embeddings": "max_position_embeddings", "norm_epsilon": "norm_eps", "hidden_act": "hidden_act",
}   # fmt: skip
"""Keys of the format, with the decoder's fields that they are."""


def document(config: DecoderConfig, dtype: str, mapping: Mapping) -> dict[str, Any]:
    """The config of a checkpoint.

    What the decoder is told beyond the format's fields stands under ``trtc``: the fields that differ from defaults.
    """
    ranks = {"world_size": mapping.world, "tp_size": mapping.tp, "pp_size": mapping.pp}
    ranks |= {"cp_size": mapping.cp} if mapping.cp > 1 else {}
    ranks |= {"moe_tp_size": mapping.moe_tp, "moe_ep_size": mapping.moe_ep} if mapping.moe_ep > 1 else {}
    found = {
        "architecture": config.architecture,
        "dtype": dtype,
        "logits_dtype": "float32",
        **{key: getattr(config, field) for key, field in STANDARD.items()},
        **positions(config),
        "quantization": defaults("quantization"),
        "mapping": ranks,
        "use_parallel_embedding": mapping.embedding_axis is not None,
        "embedding_sharding_dim": mapping.embedding_axis or 0,
        "share_embedding_table": False,
        **extras(config),
        "use_prompt_tuning": False,
    }
    own = {"version": VERSION, "decoder": written(config, leave=(*STANDARD.values(), "head_dim"))}
    return {**found, "trtc": own}


def positions(config: DecoderConfig) -> dict[str, Any]:
    """How tokens know their places, in the format's words."""
    rope = config.rope
    if not rope.dim:
        return {"position_embedding_type": "alibi" if config.alibi_slopes else "learned_absolute"}
    kind = {"longrope": "long_rope", "yarn": "yarn"}.get(rope.kind, "rope_gpt_neox")
    parameters = {key: value for key, value in (rope.parameters or {}).items() if key != "max_position"}
    return {
        "position_embedding_type": "rope_gptj" if rope.interleaved else kind,
        "rotary_embedding_dim": rope.dim,
        "rotary_pct": rope.dim / config.head_dim,
        "rotary_base": rope.theta,
        "rotary_scaling": None if rope.kind == "default" else {"type": rope.kind, "rope_type": rope.kind, **parameters},
        "attn_bias": config.qkv_bias,
        "mlp_bias": config.mlp_bias,
    }


def extras(config: DecoderConfig) -> dict[str, Any]:
    """What models add to the format, where they differ from what it takes for granted."""
    windows = set(config.windows)
    stated = {
        "head_size": (config.head_dim, config.hidden_size // config.num_attention_heads),
        "qk_layernorm": (config.qk_norm != "none", False),
        "embedding_multiplier": (config.embedding_multiplier, 1),
        "residual_multiplier": (config.residual_multiplier, 1),
        "output_multiplier_scale": (config.logits_multiplier, 1),
        "sliding_window": (max(windows, default=0), 0),
        "inter_layernorms": (config.norm_place == "both", False),
    }
    found: dict[str, Any] = {key: value for key, (value, usual) in stated.items() if value != usual}
    if config.moe:
        mode = 1 if config.moe.norm_topk_prob else 0   # of weights: whether they are made to sum up to 1
        moe = {"num_experts": config.moe.num_experts, "top_k": config.moe.num_experts_per_tok}
        found["moe"] = {**moe, "normalization_mode": mode}
    if config.architecture.startswith("Gemma2"):
        found |= {
            "attn_logit_softcapping": config.attention_softcap or None,
            "final_logit_softcapping": config.logits_softcap or None,
            "query_pre_attn_scalar": (config.attention_multiplier or config.head_dim**-0.5) ** -2,
        }   # fmt: skip
    elif config.attention_multiplier is not None:
        found["attention_multiplier"] = config.attention_multiplier
    if config.architecture == "OPTForCausalLM":
        found["do_layer_norm_before"] = config.norm_place == "pre"
    if config.architecture == "FalconForCausalLM":
        found |= {
            "bias": config.qkv_bias, "parallel_attention": config.parallel_residual,
            "new_decoder_architecture": config.parallel_norms == 2,
        }   # fmt: skip
    return found
