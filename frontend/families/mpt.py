"""MPT: scores with slopes instead of positions, no biases, q, k and v clipped. MosaicML, 2023."""

from __future__ import annotations

from dataclasses import replace

from trtc.frontend.alibi import few_heads, mpt_slopes
from trtc.frontend.config import DecoderConfig, Keys
from trtc.frontend.families.base import Family, register
from trtc.frontend.families.gpt import gpt_config
from trtc.frontend.merged import qkv_parts, stored

LAYER, OLD = "transformer.layers.{n}", "transformer.blocks.{n}"
SPELT = {
    "hidden_size": "d_model", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads",
    "max_position_embeddings": "max_seq_len", "norm_eps": "layer_norm_epsilon",
}   # fmt: skip
NORMS = ("low_precision_layernorm", "layernorm")
ASKED = {"alibi": True, "prefix_lm": False, "qk_ln": False}
"""What ``attn_config`` may say of these and leave out; transformers knows nothing else."""


def mpt_config(keys: Keys) -> DecoderConfig:
    """The decoder's config of an MPT checkpoint."""
    config = gpt_config(keys, SPELT)
    inner = keys.section("attn_config") or Keys({}, keys.file)
    _refuse(keys, inner)
    heads = few_heads(keys, "n_heads", config.num_attention_heads)
    scale = None if inner.values.get("softmax_scale") is None else inner.above(0, "softmax_scale")
    return replace(
        config,
        architecture="MptForCausalLM",
        hidden_act="gelu",
        intermediate_size=keys.positive("expansion_ratio", default=4) * config.hidden_size,
        qkv_bias=False,
        dense_bias=False,
        mlp_bias=False,
        norm_bias=False,
        attention_multiplier=scale,
        alibi_slopes=mpt_slopes(heads, inner.above(0, "alibi_bias_max", default=8)),
        qkv_clip=inner.above(0, "clip_qkv") if inner.values.get("clip_qkv") else 0.0,
    )


def _refuse(keys: Keys, inner: Keys) -> None:
    """Raise an error for what transformers leaves out of the model without a word."""
    keys.choice("norm_type", NORMS, default=NORMS[0])
    inner.choice("attn_type", ("multihead_attention",), default="multihead_attention")
    if not keys.get(bool, "no_bias", default=True):
        raise keys.wrong("no_bias", False, "true")
    if keys.values.get("logit_scale") is not None:
        raise keys.wrong("logit_scale", keys.values["logit_scale"], "null")
    for key, want in ASKED.items():
        if inner.get(bool, key, default=want) is not want:
            raise inner.wrong(key, not want, str(want).lower())


MPT = Family(
    name="MPT",
    architectures=("MptForCausalLM", "MPTForCausalLM"),
    features="ALiBi, layer norms without biases, plain MLP, clipped q, k and v, tied embeddings",
    config=mpt_config,
    names={
        "transformer.vocab_embedding": "transformer.wte",
        f"{LAYER}.input_layernorm": f"{OLD}.norm_1",
        **qkv_parts(LAYER, stored(f"{OLD}.attn.Wqkv")),
        f"{LAYER}.attention.dense": f"{OLD}.attn.out_proj",
        f"{LAYER}.post_layernorm": f"{OLD}.norm_2",
        f"{LAYER}.mlp.fc": f"{OLD}.ffn.up_proj",
        f"{LAYER}.mlp.proj": f"{OLD}.ffn.down_proj",
        "transformer.ln_f": "transformer.norm_f",
        "lm_head": "lm_head",
    },
    prefix="transformer.",
)
register(MPT)
