"""Meta's directories: the same model as in Hugging Face's form, from one file or several."""

from __future__ import annotations

import json
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
from sources import same_weights

import trtc
from trtc.compiler import plan, read_model
from trtc.errors import TrtcError
from trtc.frontend import Limits, open_checkpoint
from trtc.ir.types import f32

torch: Any = import_module("torch")
load_file: Any = import_module("safetensors.torch").load_file

CLOSE = 2e-4   # what differs is the order of sums alone
SHARED = Path(__file__).parents[3] / "shared/models"
ABSENT: Any = object()
NAMES = {
    "model.embed_tokens": "tok_embeddings", "model.norm": "norm", "lm_head": "output",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk", "self_attn.v_proj": "attention.wv", "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1", "mlp.up_proj": "feed_forward.w3", "mlp.down_proj": "feed_forward.w2",
    "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm", "model.layers": "layers",
}   # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}   # fmt: skip
SIZES = {"vocab_size": 98, "max_position_embeddings": 4096, "num_key_value_heads": 2}
CASES = {
    case.name: case
    for case in (
        Case("gqa", {**SIZES, "intermediate_size": 88}),
        Case("mha-bf16", {**SIZES, "num_key_value_heads": 4, "intermediate_size": 88}, dtype="bfloat16"),
        Case("llama3-head32", {
            **SIZES, "hidden_size": 128, "intermediate_size": 444, "rope_parameters": LLAMA3,
            "max_position_embeddings": 131072,
        }),
    )
}   # fmt: skip
PARAMS: dict[str, dict[str, Any]] = {
    "gqa": {"n_kv_heads": 2, "multiple_of": 8, "vocab_size": 98},
    "mha-bf16": {"multiple_of": 8, "vocab_size": -1},
    "llama3-head32": {
        "n_kv_heads": 2, "multiple_of": 4, "ffn_dim_multiplier": 1.3, "rope_theta": 500000.0, "use_scaled_rope": True,
    },
}


def interleaved(rows: Any, heads: int) -> Any:
    """Rows of q or k, each pair of a rotation side by side again: the inverse of what transformers' converter does."""
    count, width = rows.shape
    return rows.view(heads, 2, count // heads // 2, width).transpose(1, 2).reshape(count, width).contiguous()


def write_meta(case: Case, folder: Path, files: int = 1, *, words_split: bool = False) -> tuple[Path, Path]:
    """The model in both forms: Hugging Face's folder and Meta's."""
    hf, meta = models.write(case, folder / "hf"), folder / "meta"
    meta.mkdir()
    config = json.loads((hf / "config.json").read_text())
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    parts: list[dict[str, Any]] = [{} for _ in range(files)]
    for key, tensor in load_file(hf / "model.safetensors").items():
        name = key
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        count = next((n for part, n in heads.items() if part in key), 0)
        tensor = interleaved(tensor, count) if count else tensor
        by_rows = words_split if "embed" in key else not any(part in name for part in ("wo.", "w2."))
        pieces = tensor.chunk(files, 0 if by_rows else 1) if tensor.ndim > 1 else [tensor] * files
        for part, piece in zip(parts, pieces, strict=True):
            part[name] = piece.clone()
    for n, part in enumerate(parts):
        torch.save(part, meta / f"consolidated.{n:02}.pth")
    params = {
        "dim": config["hidden_size"], "n_layers": 2, "n_heads": config["num_attention_heads"], "norm_eps": 1e-5,
        **PARAMS[case.name],
    }   # fmt: skip
    (meta / "params.json").write_text(json.dumps(params))
    return hf, meta


@pytest.mark.parametrize(("files", "words_split"), [(1, False), (2, False), (2, True)])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_logits_are_those_of_transformers(case: Case, files: int, words_split: bool, tmp_path: Path) -> None:
    hf, meta = write_meta(case, tmp_path, files, words_split=words_split)
    expected = np.stack(models.fresh_reference(hf, case, "float32"))
    assert expected.std() > 0.3   # words differ, or agreement would say little
    model = read_model(meta, dtype="float32", **LIMITS)
    for graph in (model.graph, plan(model, target="onnx").graph):
        got = models.graph_logits(graph, model.checkpoint.source, case)
        np.testing.assert_allclose(got, expected, rtol=0, atol=CLOSE)
    bundle = trtc.compile(meta, tmp_path / "engine", target="onnx", dtype="float32", **LIMITS)
    assert bundle.source.format == "meta" and bundle.source.architecture == "LlamaForCausalLM"
    np.testing.assert_allclose(models.engine_logits(bundle, case), expected, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("files", [1, 2])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_configs_and_weights_are_those_of_the_hugging_face_form(case: Case, files: int, tmp_path: Path) -> None:
    hf, meta = (open_checkpoint(folder) for folder in write_meta(case, tmp_path, files))
    assert meta.dtype == hf.dtype == case.dtype
    assert {**vars(meta.config), "rope": 0} == {**vars(hf.config), "rope": 0}
    same_weights(hf, meta)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the trained models are not here")
def test_a_trained_model_has_the_weights_and_the_text_of_its_hugging_face_form(tmp_path: Path) -> None:
    folders = SHARED / "stories260K", SHARED / "stories260K-meta"
    hf, meta = (open_checkpoint(folder) for folder in folders)
    same_weights(hf, meta)
    golden: list[dict[str, Any]] = json.loads((folders[0] / "GOLDEN.json").read_text())[:4]   # the clear ones
    prompts, longest = [one["input_ids"] for one in golden], max(len(one["greedy_new_ids"]) for one in golden)
    for folder in folders:
        engine = trtc.compile(folder, tmp_path / folder.name, target="onnx")
        completions = trtc.load(engine.path).generate(prompts, max_new_tokens=longest)
        for one, completion in zip(golden, completions, strict=True):
            assert completion.token_ids[: len(one["greedy_new_ids"])] == one["greedy_new_ids"]
    (first, *_), (second, *_) = (
        trtc.load(tmp_path / folder.name).generate("Once upon a time", max_new_tokens=60) for folder in folders
    )
    assert first.text == second.text and len(first.text) > 100


@pytest.fixture
def meta(tmp_path: Path) -> Path:
    return write_meta(CASES["gqa"], tmp_path, 2)[1]


def error_of(folder: Path) -> str:
    with pytest.raises(TrtcError) as error:
        open_checkpoint(folder).graph(Limits(2, 8, 16), f32)
    return str(error.value).replace(str(folder), "META").removeprefix("error: ")


def edit(folder: Path, **changes: Any) -> None:
    params = {**json.loads((folder / "params.json").read_text()), **changes}
    (folder / "params.json").write_text(json.dumps({k: v for k, v in params.items() if v is not ABSENT}))


PARAMS_ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"dim": ABSENT}, "params.json: dim is missing"),
    ({"dim": 1 << 30}, "params.json: dim is 1073741824, but must be at most 16777216"),
    ({"ffn_dim_multiplier": 1e300}, "params.json: ffn_dim_multiplier is 1e+300, but must be at most 1000"),
    ({"n_layers": ABSENT}, "params.json: n_layers is missing"),
    ({"n_heads": 3}, (
        "params.json: n_heads is 3, but must be a divisor of dim, 32, for heads of an even size up to 8192"
    )),
    ({"n_heads": 32, "n_kv_heads": 32}, (
        "params.json: n_heads is 32, but must be a divisor of dim, 32, for heads of an even size up to 8192"
    )),
    ({"n_kv_heads": 3}, "params.json: n_kv_heads is 3, but must be a divisor of n_heads, 4"),
    ({"n_kv_heads": 1}, "params.json: n_kv_heads is 1, but must be a multiple of the 2 files"),
    ({"vocab_size": 97}, "params.json: vocab_size is 97, but must be a multiple of the 2 files"),
    ({"vocab_size": 0}, "params.json: vocab_size is 0, but must be at least 1"),
    ({"multiple_of": 89}, "params.json: the width of feed_forward is 89, but must be a multiple of the 2 files"),
    ({"multiple_of": 0}, "params.json: multiple_of is 0, but must be at least 1"),
    ({"ffn_dim_multiplier": 0}, "params.json: ffn_dim_multiplier is 0, but must be greater than 0"),
    ({"norm_eps": 0}, "params.json: norm_eps is 0, but must be greater than 0"),
    ({"rope_theta": 1}, "params.json: rope_theta is 1, but must be greater than 1"),
    ({"use_scaled_rope": "yes"}, 'params.json: use_scaled_rope is "yes", but must be true or false'),
    ({"max_seq_len": 0}, "params.json: max_seq_len is 0, but must be at least 1"),
    ({"multiple_of": 100}, (
        "tensor consolidated.00/layers.0.feed_forward.w1.weight is f32[44, 32], but the config asks for f32[50, 32]\n"
        "  = it is transformer.layers.0.mlp.fc.weight\n"
        "  = help: the tensors and the config are of different models"
    )),
]   # fmt: skip


@pytest.mark.parametrize(("changes", "message"), PARAMS_ERRORS)
def test_wrong_params_name_the_key(meta: Path, changes: dict[str, Any], message: str) -> None:
    edit(meta, **changes)
    assert error_of(meta) == message


def test_a_file_that_is_missing(meta: Path) -> None:
    (meta / "consolidated.00.pth").unlink()
    assert error_of(meta) == (
        "consolidated.00.pth is missing from META, but consolidated.01.pth is there\n  = help: fetch it again"
    )
    (meta / "consolidated.01.pth").unlink()
    assert error_of(meta) == "META holds no consolidated.*.pth\n  = help: fetch the weights, too"


def retensor(file: Path, **changes: Any) -> None:
    tensors = {**torch.load(file), **{k.replace("__", "."): v for k, v in changes.items()}}
    torch.save({k: v for k, v in tensors.items() if v is not ABSENT}, file)


def test_a_tensor_that_is_missing_or_of_another_shape(meta: Path) -> None:
    second = meta / "consolidated.01.pth"
    retensor(second, layers__1__attention__wq__weight=torch.zeros(3, 32))
    assert error_of(meta) == (
        "tensor consolidated.01/layers.1.attention.wq.weight is f32[3, 32], but the config asks for f32[16, 32]\n"
        "  = it is transformer.layers.1.attention.q.weight\n"
        "  = help: the tensors and the config are of different models"
    )
    retensor(second, layers__1__attention__wq__weight=ABSENT)
    assert error_of(meta) == (
        "tensor consolidated.01/layers.1.attention.wq.weight is missing from the 2 files of META\n"
        "  = help: did you mean `consolidated.01/layers.1.attention.wv.weight`?"
    )
    retensor(meta / "consolidated.00.pth", tok_embeddings__weight=torch.zeros(98))
    assert error_of(meta) == "tensor consolidated.00/tok_embeddings.weight is f32[98], but must have 2 axes"


POSITIONS: list[tuple[dict[str, Any], int]] = [
    ({"norm_eps": 1e-6}, 2048), ({}, 4096), ({"rope_theta": 500000.0}, 8192), ({"rope_theta": 1e6}, 16384),
    ({"rope_theta": 500000.0, "use_scaled_rope": True}, 131072), ({"max_seq_len": 77}, 77),
]   # fmt: skip


@pytest.mark.parametrize(("changes", "positions"), POSITIONS)
def test_positions_of_each_generation(meta: Path, changes: dict[str, Any], positions: int) -> None:
    edit(meta, **changes)
    assert open_checkpoint(meta).config.max_position_embeddings == positions


def test_tokens_that_begin_and_end(meta: Path) -> None:
    assert open_checkpoint(meta).generation == {"bos_token_id": 1, "eos_token_ids": [2], "pad_token_id": None}
    edit(meta, vocab_size=128256)
    assert open_checkpoint(meta).generation == {
        "bos_token_id": 128000, "eos_token_ids": [128001, 128008, 128009], "pad_token_id": None,
    }   # fmt: skip


def test_a_folder_of_both_forms_is_of_hugging_face(tmp_path: Path) -> None:
    hf, meta = write_meta(CASES["gqa"], tmp_path)
    (hf / "params.json").write_bytes((meta / "params.json").read_bytes())
    assert open_checkpoint(hf).format == "huggingface" and open_checkpoint(meta).format == "meta"


anything = st.none() | st.booleans() | st.integers(-2, 200) | st.integers() | st.floats() | st.text(max_size=3)


@settings(max_examples=cases(200), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from([
    "dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of", "ffn_dim_multiplier", "norm_eps",
    "rope_theta", "use_scaled_rope", "max_seq_len",
]), anything, max_size=3))   # fmt: skip
def test_any_params_are_taken_or_refused(meta: Path, changes: dict[str, Any]) -> None:
    good = (meta / "params.json").read_bytes()
    edit(meta, **changes)
    try:
        checkpoint = open_checkpoint(meta)
        checkpoint.graph(Limits(2, 8, 16), f32).verify()
        assert checkpoint.dtype and checkpoint.generation
    except TrtcError:
        pass
    finally:
        (meta / "params.json").write_bytes(good)
