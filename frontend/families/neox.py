"""GPT-NeoX, Pythia: blocks in parallel under two norms, a part of each head turned. Black et al., arXiv:2204.06745."""

from __future__ import annotations

from dataclasses import replace

from trtc.frontend.config import DecoderConfig, Keys
from trtc.frontend.families.base import Family, register
from trtc.frontend.families.gpt import gpt_config
from trtc.frontend.merged import qkv_parts, stored
from trtc.frontend.rope import read_rope, rotary_dim

LAYER, OLD = "transformer.layers.{n}", "gpt_neox.layers.{n}"


def neox_config(keys: Keys) -> DecoderConfig:
    """The decoder's config of a GPT-NeoX checkpoint."""
    config = gpt_config(keys.over(tie_word_embeddings=False), {"norm_eps": "layer_norm_eps"})
    bias = keys.get(bool, "attention_bias", default=True)
    turned = rotary_dim(keys, config.head_dim, 0.25, keys.first("partial_rotary_factor", "rotary_pct"))
    rope = read_rope(keys, turned, config.max_position_embeddings, base=keys.first("rope_theta", "rotary_emb_base"))
    return replace(
        config,
        architecture="GPTNeoXForCausalLM",
        rope=rope,
        parallel_residual=keys.get(bool, "use_parallel_residual", default=True),
        parallel_norms=2,
        qkv_bias=bias,
        dense_bias=bias,
    )


NEOX = Family(
    name="GPT-NeoX, Pythia",
    architectures=("GPTNeoXForCausalLM",),
    features="parallel residual with two norms, partial rope, layer norms, biases, plain MLP",
    config=neox_config,
    names={
        "transformer.vocab_embedding": "gpt_neox.embed_in",
        f"{LAYER}.input_layernorm": f"{OLD}.input_layernorm",
        **qkv_parts(LAYER, stored(f"{OLD}.attention.query_key_value"), grouped=True),
        f"{LAYER}.attention.dense": f"{OLD}.attention.dense",
        f"{LAYER}.post_layernorm": f"{OLD}.post_attention_layernorm",
        f"{LAYER}.mlp.fc": f"{OLD}.mlp.dense_h_to_4h",
        f"{LAYER}.mlp.proj": f"{OLD}.mlp.dense_4h_to_h",
        "transformer.ln_f": "gpt_neox.final_layer_norm",
        "lm_head": "embed_out",
    },
)
register(NEOX)
