"""GPT-J: blocks in parallel under one norm, pairs of neighbours turned, a head with a bias. Wang, Komatsuzaki, 2021."""

from __future__ import annotations

from dataclasses import replace

from trtc.frontend.config import DecoderConfig, Keys, RopeConfig
from trtc.frontend.families.base import Family, register
from trtc.frontend.families.gpt import GPT2_KEYS, gpt_config

LAYER, OLD = "transformer.layers.{n}", "transformer.h.{n}"


def gptj_config(keys: Keys) -> DecoderConfig:
    """The decoder's config of a GPT-J checkpoint."""
    config = gpt_config(keys.over(tie_word_embeddings=False), GPT2_KEYS, act="gelu_new")
    turned = keys.get(int, "rotary_dim", default=64)
    if not 2 <= turned <= config.head_dim or turned % 2:
        raise keys.wrong("rotary_dim", turned, f"even and in 2..{config.head_dim}, the size of a head")
    return replace(
        config,
        architecture="GPTJForCausalLM",
        rope=RopeConfig(10000.0, turned, interleaved=True),
        parallel_residual=True,
        qkv_bias=False,
        dense_bias=False,
        head_bias=True,
    )


GPTJ = Family(
    name="GPT-J",
    architectures=("GPTJForCausalLM",),
    features="parallel residual, partial and interleaved rope, layer norms, biases of the MLP and the head",
    config=gptj_config,
    names={
        "transformer.vocab_embedding": "transformer.wte",
        f"{LAYER}.input_layernorm": f"{OLD}.ln_1",
        f"{LAYER}.attention.q": f"{OLD}.attn.q_proj",
        f"{LAYER}.attention.k": f"{OLD}.attn.k_proj",
        f"{LAYER}.attention.v": f"{OLD}.attn.v_proj",
        f"{LAYER}.attention.dense": f"{OLD}.attn.out_proj",
        f"{LAYER}.mlp.fc": f"{OLD}.mlp.fc_in",
        f"{LAYER}.mlp.proj": f"{OLD}.mlp.fc_out",
        "transformer.ln_f": "transformer.ln_f",
        "lm_head": "lm_head",
    },
)
register(GPTJ)
