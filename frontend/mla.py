"""Multi-head latent attention in plain ops. DeepSeek-AI, DeepSeek-V2, 2024, arXiv:2405.04434."""

from __future__ import annotations

from dataclasses import replace

from trtc.frontend.attention import B, S, Step, attend
from trtc.frontend.config import DecoderConfig, MLAConfig
from trtc.frontend.layers import Lookup, linear, norm
from trtc.ir.op import Value, at
from trtc.ir.ops import Broadcast, Concat, Input, Reshape, Rope, Slice, Transpose

EPS = 1e-6   # of the norms of latent vectors, whatever the config says of the others


def latent_attention(
    config: DecoderConfig, weights: Lookup, name: str, x: Value, caches: list[Input], step: Step, window: int
) -> tuple[Value, tuple[Value, Value]]:
    """Attention whose k and v are made of one latent vector a token, and of a part of k that turns, one for all heads.

    The caches hold k and v of every head, as in other attention.
    """
    mla = config.mla
    assert mla and step.angles
    turned = mla.qk_rope_head_dim
    q = _heads(config, f"{name}.q", _queries(config, mla, weights, name, x))
    latent = linear(weights, f"{name}.kv_a", x, mla.kv_lora_rank + turned, config.qkv_bias)
    with at(f"{name}.kv_a"):
        narrow = Slice(latent, 2, 0, mla.kv_lora_rank)
        k_turned = Transpose(Reshape(Slice(latent, 2, mla.kv_lora_rank, turned), (B, S, 1, turned)), (0, 2, 1, 3))
    narrow = norm(replace(config, norm_eps=EPS), weights, f"{name}.kv_a_layernorm", narrow)
    width = config.num_attention_heads * (mla.qk_nope_head_dim + mla.v_head_dim)
    kv = _heads(config, f"{name}.kv_b", linear(weights, f"{name}.kv_b", narrow, width, False))
    with at(name):
        k_still, v = Slice(kv, 3, 0, mla.qk_nope_head_dim), Slice(kv, 3, mla.qk_nope_head_dim, mla.v_head_dim)
        q_still, q_turned = Slice(q, 3, 0, mla.qk_nope_head_dim), Slice(q, 3, mla.qk_nope_head_dim, turned)
        q_turned, k_turned = (Rope(p, *step.angles, interleaved=config.rope.interleaved) for p in (q_turned, k_turned))
        k_turned = Broadcast(k_turned, (B, config.num_attention_heads, S, turned))
        q, k = Concat((q_still, q_turned), 3), Concat((k_still, k_turned), 3)
    joined, updated = attend(config, name, (q, k, v), caches, step, window)
    return linear(weights, f"{name}.dense", joined, config.hidden_size, config.dense_bias), updated


def _queries(config: DecoderConfig, mla: MLAConfig, weights: Lookup, name: str, x: Value) -> Value:
    """q of all heads: of the token, or of a latent vector of it."""
    width = config.num_attention_heads * config.head_dim
    if not mla.q_lora_rank:
        return linear(weights, f"{name}.q", x, width, False)
    narrow = linear(weights, f"{name}.q_a", x, mla.q_lora_rank, config.qkv_bias)
    narrow = norm(replace(config, norm_eps=EPS), weights, f"{name}.q_a_layernorm", narrow)
    return linear(weights, f"{name}.q_b", narrow, width, False)


def _heads(config: DecoderConfig, name: str, x: Value) -> Value:
    """float[B, S, heads * D] as float[B, heads, S, D]."""
    heads, width = config.num_attention_heads, x.shape[2]
    assert isinstance(width, int)
    with at(name):
        return Transpose(Reshape(x, (B, S, heads, width // heads)), (0, 2, 1, 3))
