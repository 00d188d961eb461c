"""Configs of the families that came before LLaMA: messages name the file and the key; what is left out is known."""

from __future__ import annotations

import json
from typing import Any

import models
import pytest
from family_cases import FAMILY_CASES
from fuzz import cases
from gpt_cases import GPT_CASES
from hypothesis import given, settings
from hypothesis import strategies as st

from trtc.compiler import read_model
from trtc.errors import TrtcError
from trtc.frontend import FAMILIES
from trtc.frontend.config import DecoderConfig, Keys

SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 11}
GPT: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 11}
MPT: dict[str, Any] = {"d_model": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 11}
SPELT = {"GPT2LMHeadModel": GPT, "GPTBigCodeForCausalLM": GPT, "GPTJForCausalLM": GPT, "MptForCausalLM": MPT}


def config(architecture: str, **keys: Any) -> DecoderConfig:
    return FAMILIES[architecture].config(Keys({**SPELT.get(architecture, SIZES), **keys}, "config.json"))


ERRORS: list[tuple[str, dict[str, Any], str]] = [
    ("GPT2LMHeadModel", {"n_head": 5}, "n_head is 5, but must be a divisor of n_embd, 32"),
    ("GPT2LMHeadModel", {"n_embd": None}, "n_embd is missing"),
    ("GPT2LMHeadModel", {"n_inner": 0}, "n_inner is 0, but must be at least 1"),
    ("GPT2LMHeadModel", {"layer_norm_epsilon": 0}, "layer_norm_epsilon is 0, but must be greater than 0"),
    ("GPT2LMHeadModel", {"add_cross_attention": True}, (
        "add_cross_attention is true, but must be false: there is no encoder to attend to"
    )),
    ("GPT2LMHeadModel", {"activation_function": "gelu_newer"}, (
        'activation_function is "gelu_newer", but must be one of silu, swish, gelu, gelu_pytorch_tanh, gelu_new, '
        "gelu_fast, quick_gelu, relu, relu2\n  = help: did you mean `gelu_new`?"
    )),
    ("GPT2LMHeadModel", {"scale_attn_by_inverse_layer_idx": 1}, (
        "scale_attn_by_inverse_layer_idx is 1, but must be true or false"
    )),
    ("GPTBigCodeForCausalLM", {"multi_query": "no"}, 'multi_query is "no", but must be true or false'),
    ("OPTForCausalLM", {"word_embed_proj_dim": 0}, "word_embed_proj_dim is 0, but must be at least 1"),
    ("OPTForCausalLM", {"do_layer_norm_before": 0}, "do_layer_norm_before is 0, but must be true or false"),
    ("BloomForCausalLM", {"hidden_size": 1 << 40, "n_head": 1 << 40}, (
        "n_head is 1099511627776, but must be at most 65536"
    )),
    ("BloomForCausalLM", {"n_layer": 0}, "n_layer is 0, but must be at least 1"),
    ("BloomForCausalLM", {"num_attention_heads": 3}, (
        "num_attention_heads is 3, but must be a divisor of hidden_size, 32"
    )),
    ("MptForCausalLM", {"attn_config": []}, "attn_config is [], but must be an object"),
    ("MptForCausalLM", {"attn_config": {"alibi": False}}, "attn_config.alibi is false, but must be true"),
    ("MptForCausalLM", {"attn_config": {"qk_ln": True}}, "attn_config.qk_ln is true, but must be false"),
    ("MptForCausalLM", {"attn_config": {"prefix_lm": True}}, "attn_config.prefix_lm is true, but must be false"),
    ("MptForCausalLM", {"attn_config": {"clip_qkv": -1}}, "attn_config.clip_qkv is -1, but must be greater than 0"),
    ("MptForCausalLM", {"attn_config": {"softmax_scale": 0}}, (
        "attn_config.softmax_scale is 0, but must be greater than 0"
    )),
    ("MptForCausalLM", {"attn_config": {"alibi_bias_max": 0}}, (
        "attn_config.alibi_bias_max is 0, but must be greater than 0"
    )),
    ("MptForCausalLM", {"attn_config": {"attn_type": "multiquery_attention"}}, (
        'attn_config.attn_type is "multiquery_attention", but must be one of multihead_attention\n'
        "  = help: did you mean `multihead_attention`?"
    )),
    ("MptForCausalLM", {"norm_type": "rmsnorm"}, (
        'norm_type is "rmsnorm", but must be one of low_precision_layernorm, layernorm\n'
        "  = help: did you mean `layernorm`?"
    )),
    ("MptForCausalLM", {"no_bias": False}, "no_bias is false, but must be true"),
    ("MptForCausalLM", {"logit_scale": "inv_sqrt_d_model"}, 'logit_scale is "inv_sqrt_d_model", but must be null'),
    ("MptForCausalLM", {"expansion_ratio": 0}, "expansion_ratio is 0, but must be at least 1"),
    ("FalconForCausalLM", {"new_decoder_architecture": True, "parallel_attn": False}, (
        "parallel_attn is false, but must be true, as new_decoder_architecture is"
    )),
    ("FalconForCausalLM", {"new_decoder_architecture": True, "num_kv_heads": 3}, (
        "num_kv_heads is 3, but must be a divisor of num_attention_heads, 4"
    )),
    ("FalconForCausalLM", {"new_decoder_architecture": True, "num_ln_in_parallel_attn": 3}, (
        "num_ln_in_parallel_attn is 3, but must be 1 or 2"
    )),
    ("GPTJForCausalLM", {"rotary_dim": 16}, "rotary_dim is 16, but must be even and in 2..8, the size of a head"),
    ("GPTJForCausalLM", {"rotary_dim": 3}, "rotary_dim is 3, but must be even and in 2..8, the size of a head"),
    ("GPTNeoXForCausalLM", {"rotary_pct": 0.1}, (
        "rotary_pct is 0.1, but must be such that an even number of a head's 8 elements turn"
    )),
    ("GPTNeoXForCausalLM", {"rotary_emb_base": 1}, "rotary_emb_base is 1, but must be greater than 1"),
    ("PhiForCausalLM", {"intermediate_size": None}, "intermediate_size is missing"),
    ("PhiForCausalLM", {"intermediate_size": 8, "partial_rotary_factor": 0.2}, (
        "partial_rotary_factor is 0.2, but must be such that an even number of a head's 8 elements turn"
    )),
    ("NemotronForCausalLM", {"intermediate_size": 8, "norm_eps": -1}, "norm_eps is -1, but must be greater than 0"),
    ("BaichuanForCausalLM", {"intermediate_size": 8, "model_max_length": 0}, (
        "model_max_length is 0, but must be at least 1"
    )),
]   # fmt: skip


@pytest.mark.parametrize(("architecture", "keys", "message"), ERRORS)
def test_a_wrong_config_names_the_key(architecture: str, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(TrtcError) as error:
        config(architecture, **keys)
    assert str(error.value) == f"error: config.json: {message}"


def test_what_a_config_leaves_out_is_as_transformers_has_it() -> None:
    gpt2, bigcode, opt = config("GPT2LMHeadModel"), config("GPTBigCodeForCausalLM"), config("OPTForCausalLM", ffn_dim=9)
    assert (gpt2.intermediate_size, gpt2.max_position_embeddings, gpt2.hidden_act) == (128, 1024, "gelu_new")
    assert gpt2.tie_word_embeddings and gpt2.attention_multiplier is None and not gpt2.divide_scores_by_layer
    assert (bigcode.num_key_value_heads, bigcode.hidden_act) == (1, "gelu_pytorch_tanh")
    assert (opt.intermediate_size, opt.hidden_act, opt.norm_place, opt.embedding_dim) == (9, "relu", "pre", 0)
    bloom, mpt, falcon = config("BloomForCausalLM"), config("MptForCausalLM"), config("FalconForCausalLM")
    assert bloom.alibi_slopes == mpt.alibi_slopes == (0.25, 0.0625, 0.015625, 0.00390625)
    assert (mpt.qkv_clip, mpt.norm_bias, mpt.max_position_embeddings) == (0, False, 2048)
    assert (falcon.num_key_value_heads, falcon.rope.dim, falcon.alibi_slopes) == (1, 8, ())
    assert falcon.parallel_residual and falcon.parallel_norms == 1 and not falcon.qkv_bias
    new = config("FalconForCausalLM", new_decoder_architecture=True)
    assert (new.num_key_value_heads, new.parallel_norms) == (4, 2)
    neox = config("GPTNeoXForCausalLM", intermediate_size=8, rotary_emb_base=20000, rotary_pct=1.0)
    assert (neox.rope.theta, neox.rope.dim, neox.parallel_norms, neox.tie_word_embeddings) == (20000, 8, 2, False)
    assert config("GPTNeoXForCausalLM", intermediate_size=8).rope.dim == 2
    assert config("PhiForCausalLM", intermediate_size=8).rope.dim == 4
    nemotron = config("NemotronForCausalLM", intermediate_size=8)
    assert (nemotron.rope.dim, nemotron.hidden_act, nemotron.max_position_embeddings) == (4, "relu2", 4096)


def test_published_spellings_of_bloom() -> None:
    """BLOOM 176B has num_attention_heads and n_embed, 560M has n_head and hidden_size."""
    one = FAMILIES["BloomForCausalLM"].config(
        Keys({"n_embed": 32, "n_layer": 3, "num_attention_heads": 4, "vocab_size": 7, "seq_length": 99}, "config.json")
    )
    assert (one.hidden_size, one.num_hidden_layers, one.head_dim, one.max_position_embeddings) == (32, 3, 8, 99)


@pytest.mark.parametrize(
    ("keys", "slopes", "normal"),
    [
        ({"hidden_size": 4096, "max_position_embeddings": 4096}, False, False),
        ({"hidden_size": 5120, "num_attention_heads": 40, "model_max_length": 4096}, True, False),
        ({"hidden_size": 4096, "max_position_embeddings": 4096, "z_loss_weight": 0}, False, True),
        ({"hidden_size": 5120, "num_attention_heads": 40, "model_max_length": 4096, "z_loss_weight": 0}, True, True),
    ],
    ids=["7B", "13B", "2-7B", "2-13B"],
)   # fmt: skip
def test_which_baichuan_a_config_is_of(keys: dict[str, Any], slopes: bool, normal: bool) -> None:
    made = config("BaichuanForCausalLM", intermediate_size=8, **keys)
    assert (bool(made.alibi_slopes), made.rope.dim == 0, made.normal_head) == (slopes, slopes, normal)
    assert made.max_position_embeddings == 4096


ODD: tuple[Any, ...] = (
    None, -1, 0, 1, 2, 3, 64, 1 << 40, 1e300, 0.3, "", "gelu", "x" * 99, True, False, [], {}, [1], {"alibi": 1},
)   # fmt: skip


@settings(max_examples=cases(150), deadline=None, derandomize=True, database=None)
@given(st.sampled_from(GPT_CASES), st.data())
def test_mutated_configs_end_in_an_error_of_ours_or_a_graph(case: models.Case, data: st.DataObject) -> None:
    assert case.name in FAMILY_CASES
    folder = models.checkpoint(case.name)
    file = folder / "config.json"
    text = file.read_text()
    config = json.loads(text)
    for key in data.draw(st.lists(st.sampled_from(sorted(config)), min_size=1, max_size=3)):
        config[key] = data.draw(st.sampled_from(ODD))
    try:
        file.write_text(json.dumps(config))
        read_model(folder, **models.LIMITS)
    except TrtcError:
        pass
    finally:
        file.write_text(text)
