"""StableLM: layer norms, a part of each head turned, parallel blocks where asked for. Stability AI, 2023 and 2024."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from trtc.frontend.config import DecoderConfig, Keys
from trtc.frontend.families.base import Family, register
from trtc.frontend.families.llama import NAMES, llama_config
from trtc.frontend.rope import read_rope, rotary_dim
from trtc.frontend.weights import Wanted
from trtc.ir.op import Value
from trtc.ir.ops import Concat, Reshape


def stablelm_config(keys: Keys) -> DecoderConfig:
    """The decoder's config of a StableLM checkpoint."""
    keys = keys.over(layer_norm_eps=1e-5, max_position_embeddings=4096)
    config = llama_config(keys, eps="layer_norm_eps")
    turned = rotary_dim(keys, config.head_dim, default=0.25)
    return replace(
        config,
        architecture="StableLmForCausalLM",
        norm="layer",
        norm_bias=True,
        qkv_bias=keys.get(bool, "use_qkv_bias", default=False),
        dense_bias=False,
        mlp_bias=False,
        qk_norm="each" if keys.get(bool, "qk_layernorm", default=False) else "none",
        parallel_residual=keys.get(bool, "use_parallel_residual", default=False),
        rope=read_rope(keys, turned, config.max_position_embeddings),
    )


def _norms(part: str) -> Callable[[Wanted], Value]:
    """The weights of all heads' norms, [heads, D], which are a tensor each."""

    def entry(wanted: Wanted) -> Value:
        heads, size = wanted.shape
        key = f"model.layers.{{n}}.self_attn.{part}_layernorm.norms"
        rows = (wanted.fetch(f"{key}.{head}.weight", size) for head in range(heads))
        return Concat(tuple(Reshape(row, (1, size)) for row in rows), 0)

    return entry


STABLELM = Family(
    name="StableLM",
    architectures=("StableLmForCausalLM",),
    features="grouped heads, layer norms, of q and k too, partial rope, biases of q, k and v, parallel residual",
    config=stablelm_config,
    names=NAMES | {f"transformer.layers.{{n}}.attention.{part}_layernorm": _norms(part) for part in ("q", "k")},
)
register(STABLELM)
