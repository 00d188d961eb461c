"""GPT-2 and GPT-BigCode: learned positions, layer norms, biases everywhere, plain feed-forward blocks.

Radford et al., 2019, Language Models are Unsupervised Multitask Learners; Li et al., StarCoder, 2023, arXiv:2305.06161.
"""

from __future__ import annotations

from dataclasses import replace

from trtc.frontend.config import DecoderConfig, Keys, RopeConfig
from trtc.frontend.families.base import Family, register
from trtc.frontend.layers import ACTIVATIONS
from trtc.frontend.merged import all_of, qkv_parts, stored, turned
from trtc.frontend.weights import Entry

LAYER, OLD = "transformer.layers.{n}", "transformer.h.{n}"
NO_ROPE = RopeConfig(theta=10000.0, dim=0)
GPT2_KEYS = {
    "hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
    "intermediate_size": "n_inner", "max_position_embeddings": "n_positions", "hidden_act": "activation_function",
    "norm_eps": "layer_norm_epsilon",
}   # fmt: skip
"""How GPT-2's config spells what the decoder's does."""
NAMES: dict[str, Entry] = {
    "transformer.vocab_embedding": "transformer.wte",
    "transformer.position_embedding": "transformer.wpe",
    f"{LAYER}.input_layernorm": f"{OLD}.ln_1",
    f"{LAYER}.attention.dense": f"{OLD}.attn.c_proj",
    f"{LAYER}.post_layernorm": f"{OLD}.ln_2",
    f"{LAYER}.mlp.fc": f"{OLD}.mlp.c_fc",
    f"{LAYER}.mlp.proj": f"{OLD}.mlp.c_proj",
    "transformer.ln_f": "transformer.ln_f",
    "lm_head": "lm_head",
}


def gpt_config(keys: Keys, spelt: dict[str, str], *, act: str = "gelu") -> DecoderConfig:
    """The decoder's config that families like GPT-2 start from: pre-norm, biases, a head per key head, no positions.

    Args:
        spelt: the checkpoint's keys for those of DecoderConfig that it spells otherwise.
        act: the activation where none is stated.
    """

    def key(name: str) -> str:
        return spelt.get(name, name)

    hidden, heads = keys.positive(key("hidden_size")), keys.positive(key("num_attention_heads"))
    if hidden % heads:
        raise keys.wrong(key("num_attention_heads"), heads, f"a divisor of {key('hidden_size')}, {hidden}")
    inner = key("intermediate_size")
    return DecoderConfig(
        architecture="GPT2LMHeadModel",
        hidden_size=hidden,
        intermediate_size=4 * hidden if keys.values.get(inner) is None else keys.positive(inner),
        num_hidden_layers=keys.positive(key("num_hidden_layers")),
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden // heads,
        vocab_size=keys.positive("vocab_size"),
        max_position_embeddings=keys.positive(key("max_position_embeddings"), default=2048),
        norm_eps=keys.above(0, key("norm_eps"), default=1e-5),
        rope=NO_ROPE,
        hidden_act=keys.choice(key("hidden_act"), ACTIVATIONS, default=act),
        tie_word_embeddings=keys.get(bool, "tie_word_embeddings", default=True),
        qkv_bias=True,
        dense_bias=True,
        mlp_bias=True,
        gated=False,
        norm="layer",
        norm_bias=True,
    )


def gpt2_config(keys: Keys) -> DecoderConfig:
    """The decoder's config of a GPT-2 checkpoint."""
    config = _learned(keys, "gelu_new")
    return replace(
        config,
        architecture="GPT2LMHeadModel",
        divide_scores_by_layer=keys.get(bool, "scale_attn_by_inverse_layer_idx", default=False),
    )


def bigcode_config(keys: Keys) -> DecoderConfig:
    """The decoder's config of a GPT-BigCode checkpoint: SantaCoder, StarCoder."""
    config = _learned(keys, "gelu_pytorch_tanh")
    heads = 1 if keys.get(bool, "multi_query", default=True) else config.num_attention_heads
    return replace(config, architecture="GPTBigCodeForCausalLM", num_key_value_heads=heads)


def _learned(keys: Keys, act: str) -> DecoderConfig:
    if keys.get(bool, "add_cross_attention", default=False):
        raise keys.wrong("add_cross_attention", True, "false: there is no encoder to attend to")
    config = gpt_config(keys.over(n_positions=1024), GPT2_KEYS, act=act)
    scaled = keys.get(bool, "scale_attn_weights", default=True)
    return replace(config, learned_positions=True, attention_multiplier=None if scaled else 1.0)


GPT2 = Family(
    name="GPT-2",
    architectures=("GPT2LMHeadModel",),
    features="learned positions, layer norms, biases, plain MLP, tied embeddings, scores scaled by layer",
    config=gpt2_config,
    names=NAMES
    | qkv_parts(LAYER, turned(f"{OLD}.attn.c_attn"))
    | {
        f"{LAYER}.attention.dense": all_of(turned(f"{OLD}.attn.c_proj")),
        f"{LAYER}.mlp.fc": all_of(turned(f"{OLD}.mlp.c_fc")),
        f"{LAYER}.mlp.proj": all_of(turned(f"{OLD}.mlp.c_proj")),
    },
    prefix="transformer.",
)
BIGCODE = Family(
    name="GPT-BigCode",
    architectures=("GPTBigCodeForCausalLM",),
    features="as GPT-2, one key head or one a head",
    config=bigcode_config,
    names=NAMES | qkv_parts(LAYER, stored(f"{OLD}.attn.c_attn"), grouped=True),
    prefix="transformer.",
)
register(GPT2)
register(BIGCODE)
