"""ONNX decoders with past: their graphs and engines give transformers' logits and texts."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from models import LIMITS
from onnx_exports import EXPORTS, exported, reference

import trtc
from trtc.backend.onnx.ops import GroupQueryAttention
from trtc.compiler import Model, build, plan, read_model
from trtc.errors import TrtcError
from trtc.ir.ops import Attention, LayerNorm, RMSNorm
from trtc.passes import Pipeline

SHARED = Path(__file__).parents[4] / "shared" / "models"
CAPP = SHARED / "capp-gpt"
CLOSE = 5e-5   # as of families: both compute in f32 on the same weights, only the order of sums differs
every_export = pytest.mark.parametrize("name", EXPORTS)
trained = pytest.mark.skipif(not CAPP.is_dir(), reason="the trained models are not here")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


@cache
def model_of(name: str, folder: Path) -> Model:
    return read_model(exported(name, folder), **LIMITS)


@every_export
def test_graphs_give_the_logits_of_transformers(name: str, folder: Path) -> None:
    model = model_of(name, folder)
    want = reference(name)
    assert want.std() > 0.2   # words differ, or agreement would say little
    got = models.graph_logits(model.graph, model.checkpoint.source, EXPORTS[name])
    np.testing.assert_allclose(got, want, rtol=0, atol=CLOSE)


@every_export
def test_engines_give_the_logits_of_transformers(name: str, folder: Path, tmp_path: Path) -> None:
    made = plan(model_of(name, folder), target="onnx")
    assert len([op for op in made.graph.ops if isinstance(op, GroupQueryAttention)]) == 2
    bundle = build(made, tmp_path / "engine")
    assert (bundle.source.format, bundle.dtype) == ("onnx", "float32")
    np.testing.assert_allclose(models.engine_logits(bundle, EXPORTS[name]), reference(name), rtol=0, atol=CLOSE)


@every_export
def test_every_layer_is_one_attention_and_two_norms(name: str, folder: Path) -> None:
    model = model_of(name, folder)
    ops = Pipeline.parse("fuse").run(model.graph).ops
    fused = [op for op in ops if isinstance(op, Attention)]
    assert len(fused) == 2 and all(op.causal and op.lengths and op.mask is None for op in fused)
    assert len([op for op in ops if isinstance(op, LayerNorm | RMSNorm)]) == 5


def test_logits_of_all_tokens(folder: Path) -> None:
    case = EXPORTS["gpt2-eager"]
    path = exported(case.name, folder)
    last, every = model_of(case.name, folder), read_model(path, all_logits=True, **LIMITS)
    rows = models.graph_logits(last.graph, last.checkpoint.source, case)[:, 0]
    ids, lengths, past = next(models.calls(case))
    keys = [i.key for i in every.graph.inputs if i.key.endswith("_cache")]
    caches = dict.fromkeys(keys, np.zeros((3, 4, 20, 8), np.float32))
    step = {"input_ids": ids, "input_lengths": lengths, "past_lengths": past}
    logits = every.graph.evaluate({**every.checkpoint.source, **caches, **step})["logits"]
    assert logits.shape == (*ids.shape, 97)
    np.testing.assert_allclose(logits[np.arange(3), lengths - 1], rows, rtol=0, atol=1e-5)   # sums in another order


def test_what_a_directory_holds_decides(folder: Path, tmp_path: Path) -> None:
    path = exported("gpt2-eager", folder)
    model = read_model(path)
    assert (model.checkpoint.format, model.checkpoint.folder) == ("onnx", path)
    config = model.checkpoint.config
    assert (config.architecture, config.vocab_size, config.max_position_embeddings) == ("GPT2LMHeadModel", 97, 64)
    assert model.limits.max_seq_len == 64
    assert model.checkpoint.generation == {"bos_token_id": 1, "eos_token_ids": [2], "pad_token_id": None}
    nested = tmp_path / "hub" / "onnx"
    nested.mkdir(parents=True)
    (nested / "decoder_with_past_model.onnx").write_bytes((path / "model.onnx").read_bytes())
    (nested.parent / "config.json").write_bytes((path / "config.json").read_bytes())
    (nested.parent / "tokenizer.json").write_text("{}")
    checkpoint = read_model(nested.parent).checkpoint
    assert checkpoint.format == "onnx" and [*checkpoint.tokenizer_files] == [nested.parent / "tokenizer.json"]
    (nested.parent / "model.safetensors").write_bytes(b"")
    with pytest.raises(TrtcError, match=r"GPT2LMHeadModel|safetensors"):   # Hugging Face's form wins
        read_model(nested.parent)


def test_another_element_type_is_refused(folder: Path) -> None:
    with pytest.raises(TrtcError) as error:
        read_model(exported("gpt2-eager", folder), dtype="float16")
    assert str(error.value) == (
        "error: dtype is float16, but the ONNX model computes in float32\n  = help: export it in float16"
    )


@trained
def test_a_trained_export_generates_what_transformers_does(tmp_path: Path) -> None:
    trtc.compile(CAPP / "decoder_with_past.onnx", tmp_path / "engine", target="onnx")
    golden: list[dict[str, Any]] = json.loads((CAPP / "GOLDEN.json").read_text())
    engine = trtc.load(tmp_path / "engine")
    found = engine.generate([one["prompt"] for one in golden], max_new_tokens=40)   # ragged: they end apart
    assert [one.token_ids for one in found] == [one["greedy_new_ids"] for one in golden]
    assert [one.prompt_token_ids for one in found] == [one["input_ids"] for one in golden]


@trained
def test_a_trained_export_is_taken_by_tensorrt_rtx() -> None:
    model = read_model(CAPP / "decoder_with_past.onnx")
    graph = plan(model, target="tensorrt-rtx").graph
    assert len([op for op in graph.ops if isinstance(op, Attention)]) == 4
