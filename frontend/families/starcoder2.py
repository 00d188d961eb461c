"""StarCoder2: layer norms, biases, plain feed-forward blocks, a window. Lozhkov et al., 2024, arXiv:2402.19173."""

from __future__ import annotations

from dataclasses import replace

from trtc.frontend.config import DecoderConfig, Keys
from trtc.frontend.families.base import Family, register
from trtc.frontend.families.llama import NAMES, llama_config
from trtc.frontend.families.windows import read_windows


def starcoder2_config(keys: Keys) -> DecoderConfig:
    """The decoder's config of a StarCoder2 checkpoint."""
    keys = keys.over(
        num_key_value_heads=2, max_position_embeddings=4096, hidden_act="gelu_pytorch_tanh", norm_epsilon=1e-5,
        tie_word_embeddings=True,
    )   # fmt: skip
    config = llama_config(keys, eps="norm_epsilon")
    bias = keys.get(bool, "use_bias", default=True)
    return replace(
        config,
        architecture="Starcoder2ForCausalLM",
        norm="layer",
        norm_bias=True,
        gated=False,
        qkv_bias=bias,
        dense_bias=bias,
        mlp_bias=bias,
        windows=read_windows(keys, config.num_hidden_layers, lambda _: True),
    )


STARCODER2 = Family(
    name="StarCoder2",
    architectures=("Starcoder2ForCausalLM",),
    features="grouped heads, layer norms, biases, plain MLP, sliding window",
    config=starcoder2_config,
    names=NAMES
    | {
        "transformer.layers.{n}.mlp.fc": "model.layers.{n}.mlp.c_fc",
        "transformer.layers.{n}.mlp.proj": "model.layers.{n}.mlp.c_proj",
    },
)
register(STARCODER2)
