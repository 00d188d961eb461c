"""Mixtral: Mistral with experts in every layer, two a token. Jiang et al., 2024, arXiv:2401.04088."""

from __future__ import annotations

from dataclasses import replace

from trtc.frontend.config import DecoderConfig, Keys, MoEConfig
from trtc.frontend.experts import Block
from trtc.frontend.families.base import Family, register
from trtc.frontend.families.llama import NAMES, llama_config
from trtc.frontend.families.windows import read_windows
from trtc.frontend.weights import Wanted
from trtc.ir.op import Value

BLOCK = Block("model.layers.{n}.block_sparse_moe.experts", ("w1", "w3", "w2"), "model.layers.{n}.mlp.experts")
ROUTER = "transformer.layers.{n}.mlp.router"


def mixtral_config(keys: Keys) -> DecoderConfig:
    """The decoder's config of a Mixtral checkpoint."""
    keys = keys.over(
        num_key_value_heads=8, max_position_embeddings=131072, rms_norm_eps=1e-5, rope_theta=1e6,
        num_local_experts=8, num_experts_per_tok=2,
    )   # fmt: skip
    config = llama_config(keys)
    layers = config.num_hidden_layers
    return replace(
        config,
        architecture="MixtralForCausalLM",
        qkv_bias=False,
        dense_bias=False,
        mlp_bias=False,
        windows=read_windows(keys, layers, lambda _: True),
        moe=MoEConfig(tuple(range(layers)), *expert_counts(keys, "num_local_experts"), config.intermediate_size),
    )


def expert_counts(keys: Keys, key: str) -> tuple[int, int]:
    """How many experts there are, by a key, and how many a token goes to; checked, as is their activation."""
    count, picks = keys.positive(key), keys.positive("num_experts_per_tok")
    if picks > count:
        raise keys.wrong("num_experts_per_tok", picks, f"at most {key}, {count}")
    act = keys.get(str, "hidden_act", default="silu")
    if act != "silu":
        raise keys.wrong("hidden_act", act, "silu: experts with other activations are not supported")
    return count, picks


def router(wanted: Wanted) -> Value:
    """The router of published checkpoints, or of transformers 5."""
    name = f"model.layers.{{n}}.block_sparse_moe.gate.{wanted.kind}"
    return wanted.fetch(name if wanted.has(name) else f"model.layers.{{n}}.mlp.gate.{wanted.kind}", *wanted.shape)


MIXTRAL = Family(
    name="Mixtral",
    architectures=("MixtralForCausalLM",),
    features="as Mistral, mixture of experts: softmax, renormalised",
    config=mixtral_config,
    names=NAMES | BLOCK.entries() | {ROUTER: router},
)
register(MIXTRAL)
