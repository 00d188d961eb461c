"""The architectures of GGUF: which family each is, and its keys and tensors under Hugging Face's names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

KEYS = {
    "block_count": "num_hidden_layers", "embedding_length": "hidden_size", "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads", "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim", "context_length": "max_position_embeddings", "rope.freq_base": "rope_theta",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}   # fmt: skip
NEEDED = ("block_count", "embedding_length", "feed_forward_length", "attention.head_count", "context_length")
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
PARTS = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down", "mlp.gate": "ffn_gate_inp",
}   # fmt: skip
AROUND = {
    "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}   # fmt: skip
"""Norms of models that have some after attention and the feed-forward block."""
BIASES = {"attention_bias": "blk.0.attn_q.bias", "mlp_bias": "blk.0.ffn_up.bias"}
LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
EXPERT = re.compile(r"\w+\.experts\.(\d+)\.(\w+)")
EXPERT_PARTS = {
    "w1": "ffn_gate_exps", "w2": "ffn_down_exps", "w3": "ffn_up_exps",
    "gate_proj": "ffn_gate_exps", "down_proj": "ffn_down_exps", "up_proj": "ffn_up_exps",
}   # fmt: skip


@dataclass(frozen=True)
class Translation:
    """One architecture.

    Args:
        architecture: as config.json names it.
        turned: rows of q and k lie with the pairs of a rotation side by side.
        partial: a part of a head may turn.
        offset: what the weights of norms are stored with on top.
        more: keys besides KEYS, less the architecture's name and a dot, with Hugging Face's.
        parts: tensors of a layer otherwise named than in PARTS.
        shown: keys that are true where a tensor is there.
        stated: keys that all such models have, by the size of a head and what is NEEDED.
    """

    architecture: str
    turned: bool = False
    partial: bool = False
    offset: float = 0.0
    more: Mapping[str, str] = field(default_factory=dict[str, str])
    parts: Mapping[str, str] = field(default_factory=dict[str, str])
    shown: Mapping[str, str] = field(default_factory=dict[str, str])
    stated: Callable[[int, Mapping[str, int]], dict[str, Any]] | None = None

    @property
    def keys(self) -> dict[str, str]:
        return {**KEYS, **self.more}

    def tensor(self, key: str) -> tuple[str, int]:
        """GGUF's name of a tensor that Hugging Face names so, and which expert's part it is; -1 for all of it."""
        stem, _, kind = key.rpartition(".")
        if not (layer := LAYER.fullmatch(stem)):
            return f"{WHOLE[stem]}.{kind}", -1
        if expert := EXPERT.fullmatch(layer[2]):
            return f"blk.{layer[1]}.{EXPERT_PARTS[expert[2]]}.{kind}", int(expert[1])
        return f"blk.{layer[1]}.{({**PARTS, **self.parts})[layer[2]]}.{kind}", -1


def _gemma2(size: int, number: Mapping[str, int]) -> dict[str, Any]:
    """What scores are divided by, squared, which the file does not say: 27B, of 46 layers, has its own."""
    wide = number["embedding_length"] // number["attention.head_count"]
    return {"query_pre_attn_scalar": wide if number["block_count"] == 46 else size}


def _starcoder2(_: int, __: Mapping[str, int]) -> dict[str, Any]:
    return {"sliding_window": None}


def _qwen3moe(_: int, __: Mapping[str, int]) -> dict[str, Any]:
    return {"norm_topk_prob": True}


ARCHITECTURES = {
    "llama": Translation("LlamaForCausalLM", turned=True, shown=BIASES),
    "qwen2": Translation("Qwen2ForCausalLM"),
    "qwen3": Translation("Qwen3ForCausalLM", shown={"attention_bias": BIASES["attention_bias"]}),
    "gemma": Translation("GemmaForCausalLM", offset=1.0),
    "gemma2": Translation("Gemma2ForCausalLM", offset=1.0, parts=AROUND, more={
        "attention.sliding_window": "sliding_window", "attn_logit_softcapping": "attn_logit_softcapping",
        "final_logit_softcapping": "final_logit_softcapping",
    }, stated=_gemma2),
    "phi3": Translation("Phi3ForCausalLM", partial=True, more={"attention.sliding_window": "sliding_window"}, parts={
        "self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up",
    }),
    "olmo2": Translation("Olmo2ForCausalLM", parts=AROUND),
    "granite": Translation("GraniteForCausalLM", turned=True, shown=BIASES, more={
        "embedding_scale": "embedding_multiplier", "attention.scale": "attention_multiplier",
        "residual_scale": "residual_multiplier", "logit_scale": "logits_scaling",
    }),
    "starcoder2": Translation("Starcoder2ForCausalLM", shown={"use_bias": BIASES["attention_bias"]}, more={
        "attention.layer_norm_epsilon": "norm_epsilon",
    }, stated=_starcoder2),
}   # fmt: skip
"""By ``general.architecture``."""
USED = {"expert_used_count": "num_experts_per_tok"}
WITH_EXPERTS = {
    "llama": Translation("MixtralForCausalLM", turned=True, more={**USED, "expert_count": "num_local_experts"}),
    "qwen3moe": Translation("Qwen3MoeForCausalLM", shown={"attention_bias": BIASES["attention_bias"]}, more={
        **USED, "expert_count": "num_experts", "expert_feed_forward_length": "moe_intermediate_size",
    }, stated=_qwen3moe),
}   # fmt: skip
"""Those whose ``expert_count`` is not 0."""
