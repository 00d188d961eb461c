"""OPT: learned positions from the third row on, ReLU, norms before blocks or after. Zhang et al., arXiv:2205.01068."""

from __future__ import annotations

from dataclasses import replace

from trtc.frontend.config import DecoderConfig, Keys
from trtc.frontend.families.base import Family, register
from trtc.frontend.families.gpt import gpt_config
from trtc.frontend.weights import Wanted
from trtc.ir.op import Value
from trtc.ir.ops import Slice

LAYER, OLD = "transformer.layers.{n}", "model.decoder.layers.{n}"
UNUSED = 2   # rows of the table of positions before the first position's
SPELT = {"intermediate_size": "ffn_dim", "hidden_act": "activation_function"}


def opt_config(keys: Keys) -> DecoderConfig:
    """The decoder's config of an OPT checkpoint."""
    config = gpt_config(keys, SPELT, act="relu")
    before = keys.get(bool, "do_layer_norm_before", default=True)
    bias = keys.get(bool, "enable_bias", default=True)
    words = keys.positive("word_embed_proj_dim", default=config.hidden_size)
    weights = keys.get(bool, "layer_norm_elementwise_affine", default=True)
    return replace(
        config,
        architecture="OPTForCausalLM",
        norm_place="pre" if before else "sum",
        norm_weights=weights,
        final_norm=before and not keys.get(bool, "_remove_final_layer_norm", default=False),
        qkv_bias=bias,
        dense_bias=bias,
        mlp_bias=bias,
        learned_positions=True,
        embedding_dim=0 if words == config.hidden_size else words,
    )


def _positions(wanted: Wanted) -> Value:
    """The rows that stand for positions."""
    rows, size = wanted.shape
    return Slice(wanted.fetch("model.decoder.embed_positions.weight", rows + UNUSED, size), 0, UNUSED, rows)


OPT = Family(
    name="OPT",
    architectures=("OPTForCausalLM",),
    features="learned positions, layer norms before or after blocks, biases, plain MLP, projected embeddings",
    config=opt_config,
    names={
        "transformer.vocab_embedding": "model.decoder.embed_tokens",
        "transformer.position_embedding": _positions,
        "transformer.project_in": "model.decoder.project_in",
        "transformer.project_out": "model.decoder.project_out",
        f"{LAYER}.input_layernorm": f"{OLD}.self_attn_layer_norm",
        f"{LAYER}.attention.q": f"{OLD}.self_attn.q_proj",
        f"{LAYER}.attention.k": f"{OLD}.self_attn.k_proj",
        f"{LAYER}.attention.v": f"{OLD}.self_attn.v_proj",
        f"{LAYER}.attention.dense": f"{OLD}.self_attn.out_proj",
        f"{LAYER}.post_layernorm": f"{OLD}.final_layer_norm",
        f"{LAYER}.mlp.fc": f"{OLD}.fc1",
        f"{LAYER}.mlp.proj": f"{OLD}.fc2",
        "transformer.ln_f": "model.decoder.final_layer_norm",
        "lm_head": "lm_head",
    },
    prefix="model.",
)
register(OPT)
