"""LLaMA checkpoints of every shape: graphs and engines give transformers' logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from models import CASES, LIMITS, Case

import trtc
from trtc.compiler import plan, read_model
from trtc.frontend import open_checkpoint
from trtc.ir.types import evaluate

# The oracle rounds weights to the element type and computes in f32. Engines for ONNX Runtime compute in f32 too, so
# that nothing but the order of sums differs. A graph as imported rounds every result to its type, of 11 or 8 bits:
# logits are near 1/2 and residuals near 1, so a few roundings in a row make 1e-2, and 8 times that in bf16.
ENGINE, IMPORTED = 5e-5, {"float32": 5e-5, "float16": 2e-2, "bfloat16": 1.6e-1}
every_case = models.every(CASES)
every_dtype = pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])


def expected(case: Case, dtype: str) -> models.Floats:
    logits = np.stack(models.reference(models.checkpoint(case.name), case, dtype))
    assert 0.3 < logits.std() < 1   # words differ, or agreement would say little
    return logits


@every_dtype
@every_case
def test_graphs_give_the_logits_of_transformers(case: Case, dtype: str) -> None:
    model = read_model(models.checkpoint(case.name), dtype=dtype, **LIMITS)
    got = models.graph_logits(model.graph, model.checkpoint.source, case)
    np.testing.assert_allclose(got, expected(case, dtype), rtol=0, atol=IMPORTED[dtype])
    legal = plan(model, target="onnx").graph
    got = models.graph_logits(legal, model.checkpoint.source, case)
    np.testing.assert_allclose(got, expected(case, dtype), rtol=0, atol=ENGINE)


@every_dtype
@every_case
def test_engines_give_the_logits_of_transformers(case: Case, dtype: str, tmp_path: Path) -> None:
    bundle = trtc.compile(models.checkpoint(case.name), tmp_path / "engine", target="onnx", dtype=dtype, **LIMITS)
    got = models.engine_logits(bundle, case)
    np.testing.assert_allclose(got, expected(case, dtype), rtol=0, atol=ENGINE)


def test_the_cases_cover_the_family() -> None:
    configs: list[dict[str, Any]] = [
        json.loads((models.checkpoint(name) / "config.json").read_text()) for name in CASES
    ]
    ropes = [c.get("rope_parameters") or c["rope_scaling"] or {"type": "default"} for c in configs]
    assert {r.get("rope_type") or r["type"] for r in ropes} == {"default", "linear", "dynamic", "llama3", "yarn"}
    heads = {(c["num_attention_heads"] > c["num_key_value_heads"], c["num_key_value_heads"] > 1) for c in configs}
    assert heads == {(False, True), (True, True), (True, False)}   # MHA, GQA, MQA
    assert {c.get("head_dim", 8) for c in configs} >= {6, 8, 10, 16, 20, 64}
    for key in ("tie_word_embeddings", "attention_bias", "mlp_bias"):
        assert {c[key] for c in configs} == {False, True}
    assert {c["hidden_act"] for c in configs} == {"silu", "gelu", "gelu_pytorch_tanh"}
    assert {c.get("dtype", c.get("torch_dtype")) for c in configs} == {"float32", "float16", "bfloat16"}
    indices = [(models.checkpoint(name) / "model.safetensors.index.json").is_file() for name in CASES]
    assert set(indices) == {False, True}


@pytest.mark.parametrize(("name", "dtype"), [("mha", "float32"), ("gqa-tied-head16", "bfloat16")])
def test_the_dtype_is_that_of_the_checkpoint_where_none_is_asked_for(name: str, dtype: str) -> None:
    assert open_checkpoint(models.checkpoint(name)).dtype == dtype


def test_a_config_without_a_dtype_leaves_it_to_the_tensors(tmp_path: Path) -> None:
    folder = models.write(CASES["yarn-factor-untruncated"], tmp_path)
    config = json.loads((folder / "config.json").read_text())
    del config["dtype"]
    (folder / "config.json").write_text(json.dumps(config))
    assert open_checkpoint(folder).dtype == "float16"


def test_all_logits_are_those_of_every_token() -> None:
    case = CASES["yarn"]
    folder = models.checkpoint(case.name)
    model = read_model(folder, all_logits=True, **LIMITS)
    ids = models.tokens(case)[0][None, :9]
    sizes = {"B": 1, "M": 9}
    caches = {i.key: np.zeros([evaluate(s, sizes) for s in i.shape], np.float32) for i in model.graph.inputs[3:]}
    step = {"input_ids": ids, "input_lengths": np.array([9], np.int32), "past_lengths": np.zeros(1, np.int32)}
    for graph in (model.graph, plan(model, target="onnx").graph):
        got = graph.evaluate({**model.checkpoint.source, **caches, **step})["logits"]
        with models.torch.no_grad():
            want = models.load(folder)(models.torch.tensor(ids.astype(np.int64))).logits.numpy()
        np.testing.assert_allclose(got, want, rtol=0, atol=ENGINE)
