"""NeMo's archives: the same model as in Hugging Face's form, in NeMo's own names and Megatron Core's, of any ranks."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from importlib import import_module
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from fuzz import cases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import LIMITS, Case
from nemo_files import pack, write_nemo
from sources import same_weights

import trtc
from trtc.errors import TrtcError
from trtc.frontend import Limits, open_checkpoint
from trtc.frontend.sources.tar import read_tar
from trtc.ir.types import f32

torch: Any = import_module("torch")
yaml: Any = import_module("yaml")
SYSTEM: Any = vars(os)["system"]
TOKENIZERS = Path(__file__).parents[3] / "shared/models/stories260K/tokenizer.model"

LLAMA = Case("nemo-llama", {"num_key_value_heads": 2, "vocab_size": 96})
TIED = Case("nemo-tied-bf16", {"tie_word_embeddings": True, "num_hidden_layers": 4, "vocab_size": 96}, dtype="bfloat16")
PARTIAL = Case("nemo-layer-norms", {
    "vocab_size": 96, "hidden_size": 64, "use_qkv_bias": False, "layer_norm_eps": 1e-5, "hidden_act": "gelu",
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5},
}, model="StableLm")   # fmt: skip
BIASED = Case("nemo-biases", {
    "num_key_value_heads": 2, "use_bias": True, "sliding_window": None, "norm_epsilon": 1e-5,
    "tie_word_embeddings": False, "vocab_size": 96,
}, model="Starcoder2")   # fmt: skip

GPT = Case("nemo-gpt", {
    "n_inner": None, "tie_word_embeddings": True, "activation_function": "gelu_pytorch_tanh", "vocab_size": 96,
}, model="GPT2", head="LMHeadModel")   # fmt: skip

EXPERTS = Case("nemo-experts", {
    "vocab_size": 96, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None,
    "num_key_value_heads": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}, model="Mixtral")   # fmt: skip
WINDOWS = Case("nemo-windows", {"vocab_size": 96, "sliding_window": 6, "num_key_value_heads": 2}, model="Mistral")
QK_NORMS = Case("nemo-qk-norms", {"vocab_size": 96, "head_dim": 16, "num_key_value_heads": 2}, model="Qwen3")
ROUTED = {"num_moe_experts": 4, "moe_router_topk": 2}
STABLELM = {
    "normalization": "layernorm1p", "activation": "fast-geglu", "rotary_percentage": 0.5, "rotary_base": 500,
    "share_embeddings_and_output_weights": False, "bias_activation_fusion": False,
}   # fmt: skip
STARCODER = {"normalization": "layernorm", "bias": True, "activation": "gelu"}
POSITIONS = {**STARCODER, "position_embedding_type": "learned_absolute", "ffn_hidden_size": None}
FORMS: dict[str, tuple[Case, dict[str, Any], dict[str, Any]]] = {
    "own": (LLAMA, {}, {}),
    "own-tp2": (LLAMA, {}, {"ranks": 2, "root": "model.module."}),
    "own-tp2-pp2": (LLAMA, {}, {"ranks": 2, "stages": 2}),
    "own-two-projections-tp2": (LLAMA, {"activation": "swiglu"}, {"two_projections": True, "ranks": 2}),
    "core": (LLAMA, {"mcore_gpt": True}, {"core": True}),
    "core-fused-norms-tp2": (LLAMA, {}, {"core": True, "fused_norms": True, "ranks": 2}),
    "core-pp2": (LLAMA, {}, {"core": True, "stages": 2}),
    "tied-pp4": (TIED, {}, {"stages": 4}),
    "tied-core-tp4-pp2": (TIED, {}, {"core": True, "fused_norms": True, "ranks": 4, "stages": 2}),
    "layernorm1p-tp2": (PARTIAL, STABLELM, {"less_one": True, "ranks": 2}),
    "layernorm1p-core": (PARTIAL, STABLELM, {"less_one": True, "core": True, "fused_norms": True}),
    "gpt-tp2": (GPT, POSITIONS, {"ranks": 2}),
    "gpt-core-tp2-pp2": (GPT, POSITIONS, {"ranks": 2, "stages": 2, "core": True, "fused_norms": True}),
    "experts-core-tp2": (EXPERTS, ROUTED, {"ranks": 2, "core": True, "fused_norms": True}),
    "experts-core-pp2": (EXPERTS, ROUTED, {"stages": 2, "core": True, "fused_norms": True}),
    "windows": (WINDOWS, {"window_size": [6, 0]}, {"ranks": 2}),
    "norms-of-q-and-k-core-tp2": (QK_NORMS, {"qk_layernorm": True, "kv_channels": 16}, {"ranks": 2, "core": True}),
    "biases-tp2": (BIASED, STARCODER, {"ranks": 2}),
    "biases-core-tp2-pp2": (BIASED, STARCODER, {"ranks": 2, "stages": 2, "core": True, "fused_norms": True}),
}


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_those_of_the_hugging_face_form(form: str, tmp_path: Path) -> None:
    case, raw, written = FORMS[form]
    hf, nemo = (models.opened(path) for path in write_nemo(case, tmp_path, raw=raw, **written))
    assert nemo.format == "nemo" and nemo.dtype == hf.dtype == case.dtype
    same = {"architecture": "", "rope": hf.config.rope, "norm_eps": 0}
    ours, theirs = ({**vars(c.config), **same} for c in (nemo, hf))
    assert ours == theirs
    assert (nemo.config.rope.theta, nemo.config.rope.dim) == (hf.config.rope.theta, hf.config.rope.dim)
    same_weights(hf, nemo)


@pytest.mark.parametrize("form", ["own-tp2-pp2", "core-fused-norms-tp2", "layernorm1p-tp2", "gpt-tp2"])
def test_an_engine_gives_the_logits_of_transformers(form: str, tmp_path: Path) -> None:
    case, raw, written = FORMS[form]
    hf, nemo = write_nemo(case, tmp_path, raw=raw, **written)
    expected = np.stack(models.fresh_reference(hf, case, "float32"))
    bundle = trtc.compile(nemo, tmp_path / "engine", target="onnx", dtype="float32", **LIMITS)
    assert bundle.source.format == "nemo"
    np.testing.assert_allclose(models.engine_logits(bundle, case), expected, rtol=0, atol=2e-4)   # orders of sums
    assert len(next(iter(trtc.load(bundle.path).generate([[3, 5]], max_new_tokens=4))).token_ids) == 4


def test_a_folder_of_what_was_in_an_archive(tmp_path: Path) -> None:
    hf, nemo = write_nemo(LLAMA, tmp_path, ranks=2, stages=2)
    with tarfile.open(nemo) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    same_weights(models.opened(hf), models.opened(tmp_path / "unpacked"))


@pytest.mark.skipif(not TOKENIZERS.is_file(), reason="the trained models are not here")
def test_a_tokenizer_in_the_archive_goes_into_the_engine(tmp_path: Path) -> None:
    raw = {"tokenizer": {"library": "sentencepiece", "type": None, "model": "nemo:0a1b_tokenizer.model"}}
    _, nemo = write_nemo(Case("words", {"vocab_size": 512}), tmp_path, raw=raw)
    add(nemo, {"0a1b_tokenizer.model": TOKENIZERS.read_bytes()})
    assert models.opened(nemo).generation == {"bos_token_id": 1, "eos_token_ids": [2], "pad_token_id": None}
    bundle = trtc.compile(nemo, tmp_path / "engine", target="onnx", **LIMITS)
    assert (bundle.path / "tokenizer.model").read_bytes() == TOKENIZERS.read_bytes()
    (one,) = trtc.load(bundle.path).generate("Once upon", max_new_tokens=3)
    assert len(one.token_ids) == 3


def add(nemo: Path, files: dict[str, bytes], **changes: Any) -> None:
    """Further members of an archive, or other values of its config."""
    every = {name: member.read(1 << 30) for name, member in read_tar(nemo).items()}
    every["model_config.yaml"] = yaml.safe_dump({**yaml.safe_load(every["model_config.yaml"]), **changes}).encode()
    pack(nemo, {**every, **files})


@pytest.fixture
def nemo(tmp_path: Path) -> Path:
    return write_nemo(LLAMA, tmp_path, ranks=2)[1]


def error_of(path: Path) -> str:
    with pytest.raises(TrtcError) as error:
        open_checkpoint(path).graph(Limits(2, 8, 16), f32)
    return str(error.value).replace(str(path), "NEMO").removeprefix("error: ")


Y = "model_config.yaml: "
CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"hidden_size": None}, f"{Y}hidden_size is missing\n  = help: did you mean `ffn_hidden_size`?"),
    ({"num_layers": 0}, f"{Y}num_layers is 0, but must be at least 1"),
    ({"ffn_hidden_size": 47}, f"{Y}ffn_hidden_size is 47, but must be a multiple of the 2 ranks, and at most 16777216"),
    ({"num_query_groups": 1}, (
        f"{Y}num_query_groups is 1, but must be a divisor of num_attention_heads, 4, and a multiple of the 2 ranks"
    )),
    ({"num_attention_heads": 6, "num_query_groups": 2}, (
        f"{Y}num_attention_heads is 6, but must be a divisor of hidden_size, 32"
    )),
    ({"normalization": "rms"}, (
        f'{Y}normalization is "rms", but must be one of layernorm, layernorm1p, rmsnorm\n'
        "  = help: did you mean `rmsnorm`?"
    )),
    ({"activation": "silu"}, (
        f'{Y}activation is "silu", but must be one of gelu, relu, squared-relu, swiglu, fast-swiglu, geglu, '
        "fast-geglu, reglu, fast-reglu\n  = help: did you mean `swiglu`?"
    )),
    ({"position_embedding_type": "alibi"}, (
        f'{Y}position_embedding_type is "alibi", but must be one of learned_absolute, rope'
    )),
    ({"transformer_block_type": "post_ln"}, (
        f'{Y}transformer_block_type is "post_ln", but must be one of pre_ln\n  = help: did you mean `pre_ln`?'
    )),
    ({"headscale": True}, f"{Y}headscale is true, but must be false"),
    ({"normalize_attention_scores": False}, f"{Y}normalize_attention_scores is false, but must be true"),
    ({"num_moe_experts": 8, "moe_router_topk": 9}, (
        f"{Y}moe_router_topk is 9, but must be at most num_moe_experts, 8"
    )),
    ({"num_moe_experts": 8, "activation": "geglu"}, (
        f'{Y}activation is "geglu", but must be swiglu, without biases, where there are experts'
    )),
    ({"num_moe_experts": 8, "moe_layer_freq": 2}, f"{Y}moe_layer_freq is 2, but must be 1"),
    ({"num_moe_experts": 8, "moe_router_num_groups": 2}, f"{Y}moe_router_num_groups is 2, but must be null"),
    ({"num_moe_experts": 8, "moe_router_score_function": "sigmoid"}, (
        f'{Y}moe_router_score_function is "sigmoid", but must be softmax'
    )),
    ({"window_size": [4, 1]}, f"{Y}window_size is [4, 1], but must be two numbers: the keys that a token sees, and 0"),
    ({"window_size": 4}, f"{Y}window_size is 4, but must be two numbers: the keys that a token sees, and 0"),
    ({"window_attn_skip_freq": 2}, f"{Y}window_attn_skip_freq is 2, but must be null"),
    ({"qk_layernorm": True}, f"{Y}qk_layernorm is true, but must be false: NeMo's own form has norms over all heads"),
    ({"rotary_percentage": 1.5}, (
        f"{Y}rotary_percentage is 1.5, but must be such that an even number of a head's 8 elements turn, 8192 at most"
    )),
    ({"rotary_base": 1}, f"{Y}rotary_base is 1, but must be greater than 1"),
    ({"layernorm_epsilon": 0}, f"{Y}layernorm_epsilon is 0, but must be greater than 0"),
    ({"ffn_hidden_size": 46}, (
        "tensor tp0_pp0/model.language_model.encoder.layers.0.mlp.dense_h_to_4h.weight is f32[48, 32], "
        "but the config asks for f32[46, 32]\n"
        "  = it is transformer.layers.0.mlp.fc.weight\n"
        "  = help: the tensors and the config are of different models"
    )),
]   # fmt: skip


@pytest.mark.parametrize(("changes", "message"), CONFIGS)
def test_wrong_configs_name_the_key(nemo: Path, changes: dict[str, Any], message: str) -> None:
    add(nemo, {}, **changes)
    assert error_of(nemo) == message


ROPES: list[tuple[dict[str, Any], tuple[float, int, str]]] = [
    ({"rotary_base": 1e6}, (1e6, 8, "default")), ({"seq_len_interpolation_factor": 4}, (10000.0, 8, "linear")),
    ({"rotary_percentage": 0.5}, (10000.0, 4, "default")),
    ({"scale_positional_embedding": True, "rotary_base": 500000}, (500000.0, 8, "llama3")),
]   # fmt: skip


@pytest.mark.parametrize(("changes", "expected"), ROPES)
def test_rotary_positions(nemo: Path, changes: dict[str, Any], expected: tuple[float, int, str]) -> None:
    add(nemo, {}, **changes)
    rope = models.opened(nemo).config.rope
    assert (rope.theta, rope.dim, rope.kind) == expected


GELUS: list[tuple[dict[str, Any], bool, str]] = [
    ({"bias": True}, False, "gelu_pytorch_tanh"), ({"bias": False}, False, "gelu"),
    ({"bias": True, "bias_activation_fusion": False}, False, "gelu"),
    ({"openai_gelu": True}, True, "gelu_pytorch_tanh"),
    ({"bias": True, "activation": "geglu"}, False, "gelu_pytorch_tanh"), ({"activation": "fast-geglu"}, True, "gelu"),
]   # fmt: skip


@pytest.mark.parametrize(("changes", "core", "expected"), GELUS)
def test_gelu_is_the_approximation_where_it_is_fused(
    tmp_path: Path, changes: dict[str, Any], core: bool, expected: str
) -> None:
    _, nemo = write_nemo(LLAMA, tmp_path, core=core)
    add(nemo, {}, **{"activation": "gelu", "bias": False, **changes})
    assert models.opened(nemo).config.hidden_act == expected


YAMLS: list[tuple[bytes, str]] = [
    (b"[", (
        "model_config.yaml is no YAML: while parsing a flow node expected the node content, but found '<stream end>' "
        'in "<byte string>", line 1, column 2: [ ^'
    )),
    (b"a: &x [1]\nb: *x\n", "model_config.yaml: num_layers is missing"),   # which NeMo 2 writes, too
    (b"a0: &a0 [x, x]\n" + b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (n, n, n - 1, n - 1) for n in range(1, 64)), (
        "model_config.yaml is no YAML: it has more than 262144 values, or one that holds itself"
    )),
    (b"a: &x [*x]\n", (
        "model_config.yaml is no YAML: it has more than 262144 values, or one that holds itself"
    )),
    (b"!!python/object/apply:os.system ['true']", (
        "model_config.yaml is no YAML: could not determine a constructor for the tag "
        "'tag:yaml.org,2002:python/object/apply:os.system' in \"<byte string>\", line 1, column 1: "
        "!!python/object/apply:os.system ... ^"
    )),
    (b"[" * 5000, "model_config.yaml is nested too deeply to be read"),
    (b"a: 2026-13-45", "model_config.yaml is no YAML: month must be in 1..12"),
    (b"!!bool x", "model_config.yaml is no YAML: 'x'"),
    (b"3", "model_config.yaml must hold keys and values"),
    (b" " * (2 << 20), "model.nemo: model_config.yaml has 2097152 bytes, but must have at most 1048576"),
]   # fmt: skip


@pytest.mark.parametrize(("content", "message"), YAMLS)
def test_yaml_that_no_config_is(nemo: Path, content: bytes, message: str) -> None:
    add(nemo, {"model_config.yaml": content})
    assert error_of(nemo) == message


def test_members_that_are_missing(tmp_path: Path, nemo: Path) -> None:
    every = {name: member.read(1 << 30) for name, member in read_tar(nemo).items()}
    config = every.pop("model_config.yaml")
    pack(nemo, every)
    assert error_of(nemo) == "model_config.yaml is missing from NEMO"
    del every["mp_rank_00/model_weights.ckpt"]
    pack(nemo, {**every, "model_config.yaml": config})
    assert error_of(nemo) == "NEMO lacks the file of tensor-parallel rank 0 in stage 0"
    pack(nemo, {"model_config.yaml": config})
    assert error_of(nemo) == "NEMO holds no model_weights.ckpt\n  = help: fetch the weights, too"
    buffer = io.BytesIO()
    torch.save({"x": torch.ones(2)}, buffer)
    pack(nemo, {"model_config.yaml": config, "model_weights.ckpt": buffer.getvalue()})
    assert error_of(nemo) == "tensor embedding.word_embeddings.weight is missing from NEMO"


def test_compressed_archives(nemo: Path) -> None:
    pack(nemo, {"model_config.yaml": b""}, mode="w:gz")
    assert error_of(nemo) == (
        "model.nemo is compressed, but what is in it must lie there as it is\n"
        "  = help: unpack it, and give the folder: mkdir FOLDER && tar -xzf model.nemo -C FOLDER"
    )


class Hostile:
    """Runs a command where it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return SYSTEM, (f"touch {self.target}",)


def test_a_hostile_pickle_runs_nothing(nemo: Path, tmp_path: Path) -> None:
    zipfile: Any = import_module("zipfile")
    buffer, trap = io.BytesIO(), tmp_path / "trap"
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({"x": Hostile(trap)}, 2))
    add(nemo, {"mp_rank_01/model_weights.ckpt": buffer.getvalue()})
    assert error_of(nemo) == (
        f"model.nemo asks for {SYSTEM.__module__}.system, but a checkpoint needs tensors alone\n"
        "  = help: such a pickle can run code; get the checkpoint as safetensors"
    )
    assert not trap.exists()


words = st.none() | st.booleans() | st.integers(-2, 200) | st.integers() | st.floats() | st.text(max_size=3)


@settings(max_examples=cases(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from([
    "hidden_size", "num_layers", "num_attention_heads", "num_query_groups", "kv_channels", "ffn_hidden_size", "bias",
    "rotary_percentage", "rotary_base", "layernorm_epsilon", "activation", "normalization", "tokenizer", "window_size",
    "scale_positional_embedding", "scale_factor", "seq_len_interpolation_factor", "max_position_embeddings",
]), words, max_size=3))   # fmt: skip
def test_any_config_is_taken_or_refused(nemo: Path, changes: dict[str, Any]) -> None:
    good = nemo.read_bytes()
    add(nemo, {}, **changes)
    try:
        checkpoint = models.opened(nemo)
        checkpoint.graph(Limits(2, 8, 16), f32).verify()
        assert checkpoint.dtype and checkpoint.generation
    except TrtcError:
        pass
    finally:
        nemo.write_bytes(good)
