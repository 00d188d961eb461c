"""Wrong configs of newer families: every message names the file, the key, what is and what must be."""

from __future__ import annotations

import json
from typing import Any

import models
import pytest
from family_cases_moe import FAMILY_CASES_MOE
from family_cases_new import FAMILY_CASES_NEW
from fuzz import cases
from hypothesis import given, settings
from hypothesis import strategies as st

from trtc.compiler import read_model
from trtc.errors import TrtcError
from trtc.frontend import FAMILIES
from trtc.frontend.config import DecoderConfig, Keys

SIZES: dict[str, Any] = {
    "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 11,
    "num_key_value_heads": 1, "head_dim": 8,
}   # fmt: skip
CHATGLM: dict[str, Any] = {
    "hidden_size": 8, "ffn_hidden_size": 12, "num_layers": 2, "num_attention_heads": 2, "multi_query_group_num": 1,
    "kv_channels": 8, "padded_vocab_size": 11,
}   # fmt: skip
LONG = {"type": "su", "short_factor": [1] * 4, "long_factor": [2] * 4}
KIND = "one of default, linear, dynamic, llama3, yarn, longrope"


def config(architecture: str, **keys: Any) -> DecoderConfig:
    sizes = CHATGLM if "ChatGLM" in architecture else SIZES
    return FAMILIES[architecture].config(Keys({**sizes, **keys}, "config.json"))


ERRORS: list[tuple[str, dict[str, Any], str]] = [
    ("Phi3ForCausalLM", {"rope_scaling": {"type": "sue"}}, f'rope_scaling.type is "sue", but must be {KIND}'),
    ("Phi3ForCausalLM", {"rope_scaling": {**LONG, "short_factor": [1] * 3}}, (
        "rope_scaling.short_factor is [1, 1, 1], but must be a list of 4 numbers above 0"
    )),
    ("Phi3ForCausalLM", {"partial_rotary_factor": 2}, (
        "partial_rotary_factor is 2.0, but must be such that an even number of a head's 8 elements turn"
    )),
    ("GlmForCausalLM", {"partial_rotary_factor": 0}, "partial_rotary_factor is 0, but must be greater than 0"),
    ("Glm4ForCausalLM", {"attention_bias": "x"}, 'attention_bias is "x", but must be true or false'),
    ("ChatGLMModel", {"rmsnorm": False}, "rmsnorm is false, but must be true, as in every published checkpoint"),
    ("ChatGLMModel", {"add_bias_linear": True}, (
        "add_bias_linear is true, but must be false, as in every published checkpoint"
    )),
    ("ChatGLMModel", {"num_attention_heads": 3, "multi_query_group_num": 2}, (
        "multi_query_group_num is 2, but must be a divisor of num_attention_heads, 3"
    )),
    ("ChatGLMModel", {"kv_channels": 6}, (
        "kv_channels is 6, but must be a multiple of 4 up to 8192: pairs in half of each head turn"
    )),
    ("ChatGLMModel", {"rope_ratio": 0}, "rope_ratio is 0, but must be greater than 0.0001"),
    ("InternLM2ForCausalLM", {"bias": 1}, "bias is 1, but must be true or false"),
    ("Gemma3ForCausalLM", {"attn_logit_softcapping": 50.0}, (
        "attn_logit_softcapping is 50.0, but must be null, as in every published checkpoint"
    )),
    ("Gemma3ForCausalLM", {"rope_local_base_freq": 1}, "rope_local_base_freq is 1, but must be greater than 1"),
    ("Gemma3ForCausalLM", {"sliding_window_pattern": 0}, "sliding_window_pattern is 0, but must be at least 1"),
    ("Gemma3ForCausalLM", {"rope_parameters": {"full_attention": {"rope_type": "linear"}}}, (
        "rope_parameters.full_attention.factor is missing"
    )),
    ("Gemma3ForConditionalGeneration", {}, "text_config is null, but must be an object"),
    ("Gemma3ForConditionalGeneration", {"text_config": {"final_logit_softcapping": 30}}, (
        "text_config.final_logit_softcapping is 30, but must be null, as in every published checkpoint"
    )),
    ("MixtralForCausalLM", {"num_hidden_layers": 1 << 40}, (
        "num_hidden_layers is 1099511627776, but must be at most 10000"
    )),
    ("MixtralForCausalLM", {"vocab_size": 10**99}, (
        "vocab_size is 100000000000000000000000000000000000000000000000000000000000..., but must be a whole number"
    )),
    ("MixtralForCausalLM", {"num_local_experts": 0}, "num_local_experts is 0, but must be at least 1"),
    ("MixtralForCausalLM", {"num_local_experts": 4, "num_experts_per_tok": 5}, (
        "num_experts_per_tok is 5, but must be at most num_local_experts, 4"
    )),
    ("MixtralForCausalLM", {"hidden_act": "gelu"}, (
        'hidden_act is "gelu", but must be silu: experts with other activations are not supported'
    )),
    ("Qwen2MoeForCausalLM", {"decoder_sparse_step": 0}, "decoder_sparse_step is 0, but must be at least 1"),
    ("Qwen2MoeForCausalLM", {"mlp_only_layers": [0, -1]}, (
        "mlp_only_layers is [0, -1], but must be a list of whole numbers"
    )),
    ("Qwen2MoeForCausalLM", {"shared_expert_intermediate_size": None}, "shared_expert_intermediate_size is missing"),
    ("Qwen3MoeForCausalLM", {"mlp_only_layers": 2}, "mlp_only_layers is 2, but must be a list of whole numbers"),
    ("Qwen3MoeForCausalLM", {"num_local_experts": 4}, (
        "num_experts_per_tok is 8, but must be at most num_local_experts, 4"
    )),
    ("Qwen3MoeForCausalLM", {"norm_topk_prob": 1}, "norm_topk_prob is 1, but must be true or false"),
    ("DeepseekV2ForCausalLM", {"num_experts_per_tok": 2, "topk_method": "noaux_tc"}, (
        'topk_method is "noaux_tc", but must be one of greedy, group_limited_greedy'
    )),
    ("DeepseekV2ForCausalLM", {"norm_topk_prob": True}, (
        "norm_topk_prob is true, but must be false, as in every published checkpoint"
    )),
    ("DeepseekV2ForCausalLM", {"num_experts_per_tok": 2, "topk_method": "group_limited_greedy"}, "n_group is missing"),
    ("DeepseekV3ForCausalLM", {"n_group": 7}, (
        "n_group is 7, but must be a divisor of n_routed_experts, 256, for groups of at least 2"
    )),
    ("DeepseekV3ForCausalLM", {"n_routed_experts": 8, "num_experts_per_tok": 2}, (
        "n_group is 8, but must be a divisor of n_routed_experts, 8, for groups of at least 2"
    )),
    ("DeepseekV3ForCausalLM", {"n_routed_experts": 16, "topk_group": 3}, (
        "topk_group is 3, but must be in 4..8, for 8 experts a token"
    )),
    ("DeepseekV3ForCausalLM", {"scoring_func": "softmax"}, (
        'scoring_func is "softmax", but must be sigmoid, as in every published checkpoint'
    )),
    ("DeepseekV3ForCausalLM", {"moe_layer_freq": 2}, (
        "moe_layer_freq is 2, but must be 1, as in every published checkpoint"
    )),
    ("DeepseekV3ForCausalLM", {"q_lora_rank": 0}, "q_lora_rank is 0, but must be at least 1"),
    ("DeepseekV3ForCausalLM", {"qk_rope_head_dim": 3}, (
        "head_dim is 3, but must be even and in 2..8192, as default rotary positions ask\n"
        "  = help: head_dim is hidden_size / num_attention_heads where it is not stated"
    )),
]   # fmt: skip


@pytest.mark.parametrize(("architecture", "keys", "message"), ERRORS)
def test_a_wrong_config_names_the_key(architecture: str, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(TrtcError) as error:
        config(architecture, **keys)
    assert str(error.value) == f"error: config.json: {message}"


def test_what_a_config_leaves_out_is_as_published() -> None:
    assert config("Phi3ForCausalLM").rope.kind == "default" and config("Phi3ForCausalLM").windows == ()
    assert config("GlmForCausalLM", head_dim=None).head_dim == 4   # hidden_size / num_attention_heads, where null
    glm = config("GlmForCausalLM")
    assert glm.qkv_bias and not glm.dense_bias and (glm.rope.dim, glm.rope.interleaved, glm.norm_eps) == (
        4, True, 1.5625e-7,
    )   # fmt: skip
    assert config("ChatGLMModel").rope.theta == 10000 and config("ChatGLMModel", rope_ratio=500).rope.theta == 5e6
    assert config("InternLM2ForCausalLM").qkv_bias
    gemma = config("Gemma3ForCausalLM", num_hidden_layers=7)
    assert gemma.windows == (4096,) * 5 + (0, 4096) and gemma.local_rope
    assert (gemma.rope.theta, gemma.local_rope.theta, gemma.attention_multiplier) == (1e6, 1e4, 1 / 16)
    four = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}   # fmt: skip
    text = FAMILIES["Gemma3ForConditionalGeneration"].config(Keys({"text_config": four}, "config.json"))
    assert (text.num_attention_heads, text.num_key_value_heads, text.head_dim, text.vocab_size) == (8, 4, 256, 262208)
    assert text.rope.kind == "linear" and text.windows[:6] == (1024,) * 5 + (0,) and text.tie_word_embeddings


@pytest.mark.parametrize("old", ["su", "yarn", "longrope"])
def test_longrope_has_had_other_names(old: str) -> None:
    rope = config("Phi3ForCausalLM", rope_scaling={**LONG, "type": old}, max_position_embeddings=131072).rope
    assert rope.kind == "longrope" and rope.parameters
    assert (rope.parameters["original_max_position_embeddings"], rope.parameters["long_factor"]) == (4096, (2,) * 4)


def test_experts_as_published() -> None:
    mixtral, qwen2, qwen3 = (config(f"{name}ForCausalLM").moe for name in ("Mixtral", "Qwen2Moe", "Qwen3Moe"))
    assert mixtral and (mixtral.num_experts, mixtral.num_experts_per_tok, mixtral.norm_topk_prob) == (8, 2, True)
    assert qwen2 and (qwen2.num_experts, qwen2.shared_intermediate_size, qwen2.norm_topk_prob) == (60, 5632, False)
    assert qwen3 and (qwen3.num_experts, qwen3.intermediate_size, qwen3.shared_intermediate_size) == (128, 768, 0)
    sparse = config("Qwen3MoeForCausalLM", num_hidden_layers=6, decoder_sparse_step=2, mlp_only_layers=[3]).moe
    assert sparse and sparse.layers == (1, 5)
    lite = config("DeepseekV2ForCausalLM", num_experts_per_tok=6, q_lora_rank=None, first_k_dense_replace=1)
    assert lite.moe and lite.moe.layers == (1, 2) and lite.mla and lite.mla.q_lora_rank == 0
    v3 = config("DeepseekV3ForCausalLM", num_hidden_layers=5)
    assert v3.moe and v3.moe.layers == (3, 4) and (v3.head_dim, v3.value_head_dim) == (192, 128)
    assert (v3.moe.n_group, v3.moe.topk_group, v3.moe.group_best, v3.moe.routed_scaling_factor) == (8, 4, 2, 2.5)


ODD: tuple[Any, ...] = (
    None, -1, 0, 1, 2, 3, 64, 1 << 40, 10**400, 1e300, 5e-324, 0.3, "", "longrope", "x" * 99, True, False, [], {}, [1],
    [[]], {"rope_type": "longrope"}, [10**400] * 4,
)   # fmt: skip
EVERY = FAMILY_CASES_NEW | FAMILY_CASES_MOE


@settings(max_examples=cases(200), deadline=None, derandomize=True, database=None)
@given(st.sampled_from(sorted(EVERY)), st.data())
def test_mutated_configs_end_in_an_error_of_ours_or_a_graph(name: str, data: st.DataObject) -> None:
    file = models.checkpoint(name) / "config.json"
    text = file.read_text()
    whole: dict[str, Any] = json.loads(text)
    for _ in range(data.draw(st.integers(1, 3))):
        part = whole
        inner = [key for key, value in whole.items() if isinstance(value, dict) and value]
        if inner and data.draw(st.booleans()):
            part = whole[data.draw(st.sampled_from(sorted(inner)))]
        part[data.draw(st.sampled_from(sorted(part)))] = data.draw(st.sampled_from(ODD))
    try:
        file.write_text(json.dumps(whole))
        read_model(file.parent, **models.LIMITS)
    except TrtcError:
        pass
    finally:
        file.write_text(text)
