"""LLaMA 1, 2 and 3: RMSNorm, rotary positions, grouped heads, SwiGLU. Touvron et al., 2023, arXiv:2302.13971."""

from __future__ import annotations

from trtc.frontend.config import DecoderConfig, Keys
from trtc.frontend.families.base import Family, register
from trtc.frontend.layers import ACTIVATIONS
from trtc.frontend.rope import read_rope

NAMES = {
    "transformer.vocab_embedding": "model.embed_tokens",
    "transformer.layers.{n}.input_layernorm": "model.layers.{n}.input_layernorm",
    "transformer.layers.{n}.attention.q": "model.layers.{n}.self_attn.q_proj",
    "transformer.layers.{n}.attention.k": "model.layers.{n}.self_attn.k_proj",
    "transformer.layers.{n}.attention.v": "model.layers.{n}.self_attn.v_proj",
    "transformer.layers.{n}.attention.dense": "model.layers.{n}.self_attn.o_proj",
    "transformer.layers.{n}.post_layernorm": "model.layers.{n}.post_attention_layernorm",
    "transformer.layers.{n}.mlp.fc": "model.layers.{n}.mlp.gate_proj",
    "transformer.layers.{n}.mlp.gate": "model.layers.{n}.mlp.up_proj",
    "transformer.layers.{n}.mlp.proj": "model.layers.{n}.mlp.down_proj",
    "transformer.ln_f": "model.norm",
    "lm_head": "lm_head",
}
MAX_LAYERS = 10000   # far beyond any model


def llama_config(keys: Keys, *, act: str = "hidden_act", eps: str = "rms_norm_eps") -> DecoderConfig:
    """The decoder's config of a LLaMA checkpoint, which families like it start from.

    Args:
        act: the key of the activation.
        eps: the key of what norms add to the mean square or the variance.
    """
    hidden, heads = keys.positive("hidden_size"), keys.positive("num_attention_heads")
    kv_heads = keys.positive("num_key_value_heads", default=heads)
    if heads % kv_heads:
        raise keys.wrong("num_key_value_heads", kv_heads, f"a divisor of num_attention_heads, {heads}")
    if keys.values.get("head_dim") is None and hidden % heads:
        want = f"a divisor of hidden_size, {hidden}, where there is no head_dim"
        raise keys.wrong("num_attention_heads", heads, want)
    size = keys.positive("head_dim", default=hidden // heads)
    positions, layers = keys.positive("max_position_embeddings", default=2048), keys.positive("num_hidden_layers")
    if layers > MAX_LAYERS:
        raise keys.wrong("num_hidden_layers", layers, f"at most {MAX_LAYERS}")
    bias = keys.get(bool, "attention_bias", default=False)
    return DecoderConfig(
        architecture="LlamaForCausalLM",
        hidden_size=hidden,
        intermediate_size=keys.positive("intermediate_size"),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=size,
        vocab_size=keys.positive("vocab_size"),
        max_position_embeddings=positions,
        norm_eps=keys.above(0, eps, default=1e-6),
        rope=read_rope(keys, size, positions),
        hidden_act=keys.choice(act, ACTIVATIONS, default="silu"),
        tie_word_embeddings=keys.get(bool, "tie_word_embeddings", default=False),
        qkv_bias=bias,
        dense_bias=bias,
        mlp_bias=keys.get(bool, "mlp_bias", default=False),
    )


LLAMA = Family(
    name="LLaMA 1, 2, 3",
    architectures=("LlamaForCausalLM",),
    features="grouped heads, tied embeddings, attention and MLP biases, rope scaling linear/dynamic/llama3/yarn",
    config=llama_config,
    names=NAMES,
)
register(LLAMA)
