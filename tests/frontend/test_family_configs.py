"""Wrong configs of families beside LLaMA: every message names the file, the key, what is and what must be."""

from __future__ import annotations

from typing import Any

import pytest

from trtc.errors import TrtcError
from trtc.frontend import FAMILIES
from trtc.frontend.config import DecoderConfig, Keys

GPT_SIZES: dict[str, Any] = {   # the same in other words
    "hidden_size": 32, "n_embd": 32, "n_head": 2, "n_layer": 2, "d_model": 32, "n_heads": 2, "n_layers": 2,
    "rotary_dim": 8,
}   # fmt: skip
SIZES: dict[str, Any] = {
    "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 11,
    "num_key_value_heads": 1, "head_dim": 4,
}   # fmt: skip
CHATGLM: dict[str, Any] = {
    "ffn_hidden_size": 12, "num_layers": 2, "multi_query_group_num": 1, "kv_channels": 8, "padded_vocab_size": 11,
}   # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "ChatGLMModel": CHATGLM, "ChatGLMForConditionalGeneration": CHATGLM,
    "Gemma3ForConditionalGeneration": {"text_config": SIZES}, "DeepseekV2ForCausalLM": {"num_experts_per_tok": 2},
}   # fmt: skip
"""Keys of some architectures that others name otherwise."""
FULL, SLIDING = "full_attention", "sliding_attention"


def config(architecture: str, **keys: Any) -> DecoderConfig:
    return FAMILIES[architecture].config(Keys({**SIZES, **OWN.get(architecture, {}), **keys}, "config.json"))


ERRORS: list[tuple[str, dict[str, Any], str]] = [
    ("MistralForCausalLM", {"sliding_window": 0}, "sliding_window is 0, but must be at least 1"),
    ("MistralForCausalLM", {"sliding_window": "all"}, 'sliding_window is "all", but must be a whole number'),
    ("Qwen2ForCausalLM", {"use_sliding_window": 1}, "use_sliding_window is 1, but must be true or false"),
    ("Qwen2ForCausalLM", {"layer_types": [SLIDING, FULL]}, (
        "use_sliding_window is false, but must be true, as layer_types has sliding_attention"
    )),
    ("Qwen2ForCausalLM", {"use_sliding_window": True, "layer_types": [FULL]}, (
        'layer_types is ["full_attention"], but must be a list of 2, each one of full_attention, sliding_attention'
    )),
    ("Qwen2ForCausalLM", {"layer_types": "sliding_attention"}, (
        'layer_types is "sliding_attention", but must be a list of 2, each one of full_attention, sliding_attention'
    )),
    ("Qwen3ForCausalLM", {"layer_types": [FULL, ["x"]]}, (
        'layer_types is ["full_attention", ["x"]], but must be a list of 2, each one of full_attention, '
        "sliding_attention"
    )),
    ("Qwen3ForCausalLM", {"use_sliding_window": True, "layer_types": [FULL, SLIDING], "sliding_window": None}, (
        "sliding_window is null, but must be a whole number, as layer_types has sliding_attention"
    )),
    ("Qwen3ForCausalLM", {"use_sliding_window": True, "max_window_layers": 0.5}, (
        "max_window_layers is 0.5, but must be a whole number"
    )),
    ("Olmo2ForCausalLM", {"rms_norm_eps": 0}, "rms_norm_eps is 0, but must be greater than 0"),
    ("GraniteForCausalLM", {"embedding_multiplier": -1}, "embedding_multiplier is -1, but must be greater than 0"),
    ("GraniteForCausalLM", {"attention_multiplier": "x"}, 'attention_multiplier is "x", but must be a number'),
    ("GraniteForCausalLM", {"residual_multiplier": True}, "residual_multiplier is true, but must be a number"),
    ("GraniteForCausalLM", {"logits_scaling": 0}, "logits_scaling is 0, but must be greater than 0"),
    ("GemmaForCausalLM", {"use_bidirectional_attention": True}, (
        "use_bidirectional_attention is true, but must be false: tokens see only what came before them"
    )),
    ("Gemma2ForCausalLM", {"hidden_activation": "geglu"}, (
        'hidden_activation is "geglu", but must be one of silu, swish, gelu, gelu_pytorch_tanh, gelu_new, gelu_fast, '
        "quick_gelu, relu, relu2\n  = help: did you mean `gelu`?"
    )),
    ("Gemma2ForCausalLM", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar is 0, but must be greater than 0"),
    ("Gemma2ForCausalLM", {"attn_logit_softcapping": 0}, "attn_logit_softcapping is 0, but must be greater than 0"),
    ("Gemma2ForCausalLM", {"final_logit_softcapping": "no"}, 'final_logit_softcapping is "no", but must be a number'),
    ("Starcoder2ForCausalLM", {"use_bias": 2}, "use_bias is 2, but must be true or false"),
    ("Starcoder2ForCausalLM", {"norm_epsilon": 0}, "norm_epsilon is 0, but must be greater than 0"),
    ("StableLmForCausalLM", {"layer_norm_eps": -1}, "layer_norm_eps is -1, but must be greater than 0"),
    ("StableLmForCausalLM", {"head_dim": 16, "use_qkv_bias": 1}, "use_qkv_bias is 1, but must be true or false"),
    ("StableLmForCausalLM", {"head_dim": 16, "use_parallel_residual": 1}, (
        "use_parallel_residual is 1, but must be true or false"
    )),
    ("StableLmForCausalLM", {"partial_rotary_factor": 0.25}, (
        "partial_rotary_factor is 0.25, but must be such that an even number of a head's 4 elements turn"
    )),
    ("StableLmForCausalLM", {"rope_parameters": {"partial_rotary_factor": 1.5}}, (
        "rope_parameters.partial_rotary_factor is 1.5, but must be such that an even number of a head's 4 elements turn"
    )),
    ("CohereForCausalLM", {"logit_scale": 0}, "logit_scale is 0, but must be greater than 0"),
    ("CohereForCausalLM", {"use_qk_norm": 1}, "use_qk_norm is 1, but must be true or false"),
]   # fmt: skip


@pytest.mark.parametrize(("architecture", "keys", "message"), ERRORS)
def test_a_wrong_config_names_the_key(architecture: str, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(TrtcError) as error:
        config(architecture, **keys)
    assert str(error.value) == f"error: config.json: {message}"


def test_what_a_config_leaves_out_is_as_transformers_has_it() -> None:
    assert config("MistralForCausalLM").windows == (4096, 4096)
    assert config("MistralForCausalLM", sliding_window=None).windows == ()
    assert config("Qwen2ForCausalLM").windows == ()
    assert config("Qwen2ForCausalLM", use_sliding_window=True).windows == ()   # max_window_layers is 28
    assert config("Qwen3ForCausalLM", use_sliding_window=True, max_window_layers=1).windows == (0, 4096)
    assert config("Olmo2ForCausalLM").norm_eps == 1e-5
    assert config("GraniteForCausalLM").attention_multiplier == 1
    assert config("GemmaForCausalLM").tie_word_embeddings
    assert config("GemmaForCausalLM").hidden_act == config("GemmaForCausalLM", hidden_act="gelu").hidden_act
    assert config("Starcoder2ForCausalLM").dense_bias and config("Starcoder2ForCausalLM").windows == ()
    assert config("StableLmForCausalLM", head_dim=16).rope.dim == 4
    assert config("CohereForCausalLM").rope.theta == 500000 and config("CohereForCausalLM").logits_multiplier == 1 / 16
    two = config("Gemma2ForCausalLM")
    assert (two.windows, two.attention_softcap, two.logits_softcap) == ((4096, 0), 50, 30)
    assert (two.attention_multiplier, two.hidden_act, two.norm_offset) == (1 / 16, "gelu_pytorch_tanh", 1)


@pytest.mark.parametrize("architecture", sorted(FAMILIES))
def test_a_config_knows_its_architecture(architecture: str) -> None:
    made = config(architecture, **{"head_dim": 16, **GPT_SIZES})
    assert made.architecture in FAMILIES[architecture].architectures
