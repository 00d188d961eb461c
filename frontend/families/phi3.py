"""Phi-3, Phi-3.5 and Phi-4: LLaMA with merged products, and longrope. Abdin et al., 2024, arXiv:2404.14219."""

from __future__ import annotations

from dataclasses import replace

from trtc.frontend.config import DecoderConfig, Keys
from trtc.frontend.families.base import Family, register
from trtc.frontend.families.llama import NAMES, llama_config
from trtc.frontend.families.windows import read_windows
from trtc.frontend.merged import part_of, qkv_parts, stored
from trtc.frontend.rope import read_rope, rotary_dim

LAYER = "transformer.layers.{n}"
GATE_UP = {
    f"{LAYER}.mlp.{part}": part_of(stored("model.layers.{n}.mlp.gate_up_proj"), i, 2)
    for i, part in enumerate(("fc", "gate"))
}
OLD_KINDS = ("su", "yarn")   # what the first Phi-3 called longrope


def phi3_config(keys: Keys) -> DecoderConfig:
    """The decoder's config of a Phi-3 checkpoint."""
    keys = _longrope(keys.over(max_position_embeddings=4096, original_max_position_embeddings=4096, rms_norm_eps=1e-5))
    config = llama_config(Keys({**keys.values, "rope_scaling": None, "rope_parameters": None}, keys.file))
    turned = rotary_dim(keys, config.head_dim, default=1.0)
    return replace(
        config,
        architecture="Phi3ForCausalLM",
        qkv_bias=False,
        dense_bias=False,
        mlp_bias=False,
        rope=read_rope(keys, turned, config.max_position_embeddings),
        windows=read_windows(keys, config.num_hidden_layers, lambda _: True),
    )


def _longrope(keys: Keys) -> Keys:
    """The same keys with longrope under the name that it has today."""
    for name in ("rope_scaling", "rope_parameters"):
        section = keys.section(name)
        kind = "rope_type" if section and section.values.get("rope_type") is not None else "type"
        if section and section.values.get(kind) in OLD_KINDS:
            return Keys({**keys.values, name: {**section.values, kind: "longrope"}}, keys.file)
    return keys


PHI3 = Family(
    name="Phi-3, 3.5, 4",
    architectures=("Phi3ForCausalLM",),
    features="as LLaMA, merged products, longrope, partial rope, sliding window",
    config=phi3_config,
    names=NAMES | GATE_UP | qkv_parts(LAYER, stored("model.layers.{n}.self_attn.qkv_proj")),
)
register(PHI3)
