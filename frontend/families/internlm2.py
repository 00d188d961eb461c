"""InternLM2: LLaMA with queries, keys and values merged by key head. Cai et al., 2024, arXiv:2403.17297.

Keys and names: configuration_internlm2.py and modeling_internlm2.py of internlm/internlm2-7b.
"""

from __future__ import annotations

from dataclasses import replace

from trtc.frontend.config import DecoderConfig, Keys
from trtc.frontend.families.base import Family, register
from trtc.frontend.families.llama import llama_config
from trtc.frontend.merged import qkv_parts, stored

LAYER, THEIRS = "transformer.layers.{n}", "model.layers.{n}"


def internlm2_config(keys: Keys) -> DecoderConfig:
    """The decoder's config of an InternLM2 checkpoint."""
    bias = keys.get(bool, "bias", default=True)
    config = replace(llama_config(keys), architecture="InternLM2ForCausalLM")
    return replace(config, qkv_bias=bias, dense_bias=bias, mlp_bias=False)


INTERNLM2 = Family(
    name="InternLM2",
    architectures=("InternLM2ForCausalLM",),
    features="as LLaMA, q, k and v merged by key head, biases of attention",
    config=internlm2_config,
    names={
        "transformer.vocab_embedding": "model.tok_embeddings",
        f"{LAYER}.input_layernorm": f"{THEIRS}.attention_norm",
        f"{LAYER}.attention.dense": f"{THEIRS}.attention.wo",
        f"{LAYER}.post_layernorm": f"{THEIRS}.ffn_norm",
        f"{LAYER}.mlp.fc": f"{THEIRS}.feed_forward.w1",
        f"{LAYER}.mlp.gate": f"{THEIRS}.feed_forward.w3",
        f"{LAYER}.mlp.proj": f"{THEIRS}.feed_forward.w2",
        "transformer.ln_f": "model.norm",
        "lm_head": "output",
    }
    | qkv_parts(LAYER, stored(f"{THEIRS}.attention.wqkv"), grouped=True),
)
register(INTERNLM2)
