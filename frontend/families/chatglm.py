"""ChatGLM3 and GLM-4 as THUDM published them: GLM-4 under other keys and names, queries, keys and values merged.

GLM Team, 2024, arXiv:2406.12793; keys and names: configuration_chatglm.py and modeling_chatglm.py of THUDM/chatglm3-6b.
"""

from __future__ import annotations

from trtc.frontend.config import DecoderConfig, Keys, RopeConfig
from trtc.frontend.families.base import Family, register
from trtc.frontend.merged import part_of, qkv_parts, stored
from trtc.frontend.rope import MAX_DIM

LAYER, THEIRS = "transformer.layers.{n}", "transformer.encoder.layers.{n}"
FIXED = {
    "rmsnorm": True, "post_layer_norm": True, "multi_query_attention": True, "original_rope": True,
    "add_bias_linear": False, "apply_residual_connection_post_layernorm": False,
}   # fmt: skip
"""What every published checkpoint says."""


def chatglm_config(keys: Keys) -> DecoderConfig:
    """The decoder's config of a ChatGLM3 checkpoint."""
    for key, want in FIXED.items():
        if keys.get(bool, key, default=want) is not want:
            raise keys.wrong(key, not want, f"{str(want).lower()}, as in every published checkpoint")
    heads, groups = keys.positive("num_attention_heads"), keys.positive("multi_query_group_num")
    if heads % groups:
        raise keys.wrong("multi_query_group_num", groups, f"a divisor of num_attention_heads, {heads}")
    size = keys.positive("kv_channels")
    if size % 4 or size > MAX_DIM:
        raise keys.wrong("kv_channels", size, f"a multiple of 4 up to {MAX_DIM}: pairs in half of each head turn")
    return DecoderConfig(
        architecture="ChatGLMModel",
        hidden_size=keys.positive("hidden_size"),
        intermediate_size=keys.positive("ffn_hidden_size"),
        num_hidden_layers=keys.positive("num_layers"),
        num_attention_heads=heads,
        num_key_value_heads=groups,
        head_dim=size,
        vocab_size=keys.positive("padded_vocab_size"),
        max_position_embeddings=keys.positive("seq_length", default=2048),
        norm_eps=keys.above(0, "layernorm_epsilon", default=1e-5),
        rope=RopeConfig(10000 * keys.above(1e-4, "rope_ratio", default=1.0), size // 2, interleaved=True),
        hidden_act="silu",
        tie_word_embeddings=keys.get(bool, "tie_word_embeddings", default=False),
        qkv_bias=keys.get(bool, "add_qkv_bias", default=False),
    )


CHATGLM = Family(
    name="ChatGLM3, GLM-4",
    architectures=("ChatGLMModel", "ChatGLMForConditionalGeneration"),
    features="as GLM-4 in THUDM's form: q, k and v merged, rope_ratio",
    config=chatglm_config,
    names={
        "transformer.vocab_embedding": "transformer.embedding.word_embeddings",
        f"{LAYER}.input_layernorm": f"{THEIRS}.input_layernorm",
        f"{LAYER}.attention.dense": f"{THEIRS}.self_attention.dense",
        f"{LAYER}.post_layernorm": f"{THEIRS}.post_attention_layernorm",
        f"{LAYER}.mlp.proj": f"{THEIRS}.mlp.dense_4h_to_h",
        "transformer.ln_f": "transformer.encoder.final_layernorm",
        "lm_head": "transformer.output_layer",
    }
    | qkv_parts(LAYER, stored(f"{THEIRS}.self_attention.query_key_value"))
    | {
        f"{LAYER}.mlp.{part}": part_of(stored(f"{THEIRS}.mlp.dense_h_to_4h"), i, 2)
        for i, part in enumerate(("fc", "gate"))
    },
)
register(CHATGLM)
