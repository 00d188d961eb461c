"""BLOOM: scores with slopes instead of positions, normalised embeddings. Le Scao et al., 2022, arXiv:2211.05100."""

from __future__ import annotations

from dataclasses import replace

from trtc.frontend.alibi import alibi_slopes, few_heads
from trtc.frontend.config import DecoderConfig, Keys
from trtc.frontend.families.base import Family, register
from trtc.frontend.families.gpt import gpt_config
from trtc.frontend.merged import qkv_parts, stored

LAYER, OLD = "transformer.layers.{n}", "transformer.h.{n}"


def bloom_config(keys: Keys) -> DecoderConfig:
    """The decoder's config of a BLOOM checkpoint; published ones spell sizes in several ways."""
    spelt = {
        "hidden_size": keys.first("hidden_size", "n_embed"),
        "num_hidden_layers": keys.first("n_layer", "num_hidden_layers"),
        "num_attention_heads": keys.first("n_head", "num_attention_heads"),
        "max_position_embeddings": "seq_length",
        "norm_eps": "layer_norm_epsilon",
    }
    config = gpt_config(keys, spelt)
    return replace(
        config,
        architecture="BloomForCausalLM",
        hidden_act="gelu_pytorch_tanh",
        intermediate_size=4 * config.hidden_size,
        embedding_norm=True,
        alibi_slopes=alibi_slopes(few_heads(keys, spelt["num_attention_heads"], config.num_attention_heads)),
        residual_of_norm=keys.get(bool, "apply_residual_connection_post_layernorm", default=False),
    )


BLOOM = Family(
    name="BLOOM",
    architectures=("BloomForCausalLM",),
    features="ALiBi, layer norms, of embeddings too, biases, plain MLP, tied embeddings",
    config=bloom_config,
    names={
        "transformer.vocab_embedding": "transformer.word_embeddings",
        "transformer.ln_embed": "transformer.word_embeddings_layernorm",
        f"{LAYER}.input_layernorm": f"{OLD}.input_layernorm",
        **qkv_parts(LAYER, stored(f"{OLD}.self_attention.query_key_value"), grouped=True),
        f"{LAYER}.attention.dense": f"{OLD}.self_attention.dense",
        f"{LAYER}.post_layernorm": f"{OLD}.post_attention_layernorm",
        f"{LAYER}.mlp.fc": f"{OLD}.mlp.dense_h_to_4h",
        f"{LAYER}.mlp.proj": f"{OLD}.mlp.dense_4h_to_h",
        "transformer.ln_f": "transformer.ln_f",
        "lm_head": "lm_head",
    },
    prefix="transformer.",
)
register(BLOOM)
