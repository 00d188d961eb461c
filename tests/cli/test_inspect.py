"""``trtc inspect``: what is said of an engine, beside what its files say."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commandline import MODEL, Trtc

import trtc
from trtc.backend.backends import backend
from trtc.ir import parse


def test_text(trtc_: Trtc, shakespeare: Path) -> None:
    code, out, err = trtc_("inspect", shakespeare)
    assert (code, err) == (0, "")
    head, inputs, outputs, ops = out.split("\n\n")
    facts = dict(line.split(maxsplit=1) for line in head.splitlines())
    assert list(facts) == ["engine", "target", "model", "limits", "cache", "pipeline", "source", "files"]
    assert facts["model"] == "LlamaForCausalLM, 1,423,232 parameters, float16"
    assert facts["cache"] == "f32, 7 layers, 2 heads of 32: 3,584 bytes a token, 7.3 MB at most"
    assert inputs.splitlines() == [
        "inputs of rank0/model.onnx, B in 1..4, S in 1..512, M in 1..512",
        "  input_ids                  i32[B, S]",
        "  input_lengths              i32[B]",
        "  past_lengths               i32[B]",
        "  layers.{0..6}.key_cache    f32[B, 2, M, 32]",
        "  layers.{0..6}.value_cache  f32[B, 2, M, 32]",
    ]
    assert outputs.splitlines()[1:3] == [
        "  logits                          f32[B, 1024]",
        "  layers.{0..6}.key_cache.next    f32[B, 2, M, 32]  updates layers.{0..6}.key_cache",
    ]
    assert ops.splitlines()[0].split() == ["op", "count", "bytes", "of", "weights"]


def test_json_agrees_with_the_files(trtc_: Trtc, shakespeare: Path) -> None:
    code, out, _ = trtc_("inspect", shakespeare, "--json")
    got = json.loads(out)
    safetensors: Any = import_module("safetensors.numpy")
    tensors = safetensors.load_file(MODEL / "model.safetensors")
    files = {f.relative_to(shakespeare).as_posix(): f.stat().st_size for f in shakespeare.rglob("*.*")}
    del files["engine.json"]
    graph = parse((shakespeare / "graph.trtc").read_text())
    assert code == 0
    assert got["parameters"] == sum(np.size(tensor) for tensor in tensors.values())
    assert (got["files"], got["bytes"]) == (files, sum(files.values()))
    assert sum(row["weight_bytes"] for row in got["ops"]) == backend("onnx").stored_bytes(graph)
    assert {row["op"]: row["count"] for row in got["ops"]}["onnxruntime.group_query_attention"] == 7
    engine = json.loads((shakespeare / "engine.json").read_text())
    for key in ("target", "pipeline", "dtype", "limits", "cache", "bounds", "source"):
        assert got[key] == engine[key]
    assert got["ranks"][0]["inputs"][0] == {"name": "input_ids", "dtype": "i32", "shape": ["B", "S"]}


def test_values_may_have_heads_of_another_size(trtc_: Trtc, shakespeare: Path, tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    shutil.copytree(shakespeare, engine)
    stated = json.loads((engine / "engine.json").read_text())
    assert stated["cache"]["value_head_size"] == 32
    stated["cache"]["value_head_size"] = 48
    (engine / "engine.json").write_text(json.dumps(stated))
    assert "2 heads of 32 and 48: " in trtc_("inspect", engine)[1]
    del stated["cache"]["value_head_size"]   # as the first release wrote it
    (engine / "engine.json").write_text(json.dumps(stated))
    assert "2 heads of 32: " in trtc_("inspect", engine)[1]


def test_mistakes_exit_with_2(trtc_: Trtc, shakespeare: Path, tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    shutil.copytree(shakespeare, engine)
    (engine / "graph.trtc").unlink()
    code, _, err = trtc_("inspect", engine)
    assert (code, err) == (
        2,
        f"error: {engine}/graph.trtc is missing, but engine.json lists it\n"
        "  = help: the engine is damaged: copy it again, or compile it again\n",
    )
    (engine / "engine.json").write_text('{"format": "trtc-engine", "version": 7}')
    assert trtc_("inspect", engine) == (
        2,
        "",
        f"error: {engine}/engine.json is format version 7, but this trtc reads up to 1\n"
        "  = help: upgrade trtc, or compile the engine again with this one\n",
    )
    nothing = f"{MODEL} has no engine.json, but an engine has one\n  = help: trtc compile MODEL_DIR -o ENGINE_DIR"
    assert trtc_("inspect", MODEL) == (2, "", f"error: {nothing}\n")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model for TensorRT-RTX."""
    pytest.importorskip("tensorrt_rtx_bindings")
    out = tmp_path_factory.mktemp("engines") / "plan"
    trtc.compile(MODEL, out, target="tensorrt-rtx", max_batch_size=2, max_input_len=8, max_seq_len=16)
    return out


def test_layers_of_a_plan_and_the_ops_they_were_made_of(trtc_: Trtc, plan: Path) -> None:
    code, out, err = trtc_("inspect", plan, "--layers")
    assert (code, err) == (0, "")
    prefill, decode = out.split("\n\n")
    assert prefill.startswith("profile 0, B in 1..2, S in 1..8\n")
    assert decode.startswith("profile 1, B in 1..2, S in 1..1\n")
    row = next(line for line in prefill.splitlines() if "_gemm_mha_v2" in line)
    assert row.split()[1:] == ["function", "_gemm_mha_v2", "transformer.layers.0:", "attention/attention"]
    code, out, _ = trtc_("inspect", plan, "--layers", "--json")
    said = json.loads(out)
    attention = {"op": "attention", "loc": "transformer.layers.0.attention"}
    assert code == 0 and attention in next(x for x in said[0] if "_mha_" in x["name"])["ops"]


def test_layers_as_an_inspector_said_them_with_the_times_of_a_run(trtc_: Trtc, plan: Path, tmp_path: Path) -> None:
    said, times = tmp_path / "inspector.json", tmp_path / "times.json"
    layer = {"Name": "gemm_7", "LayerType": "gemm", "Metadata": "transformer.layers.0.mlp.proj/linear"}
    said.write_text(json.dumps({"Layers": [layer]}))
    run = {"profile": 0, "sizes": {"B": 1, "S": 8}, "context": 8, "seconds": {"gemm_7": [1e-3]}}
    times.write_text(json.dumps(run))
    code, out, _ = trtc_("inspect", plan, "--inspector", said)
    row = ["0", "gemm", "gemm_7", "transformer.layers.0.mlp:", "proj/linear"]
    assert code == 0 and out.splitlines()[-1].split() == row
    code, out, _ = trtc_("inspect", plan, "--inspector", said, "--times", times)
    head, _, line = out.splitlines()
    assert code == 0 and head == "profile 0, B in 1..2, S in 1..8: B = 1, S = 8, 1.000 ms"
    rows, weight = 8, 352 * 128   # tokens, and the product's weight of f16
    assert line.split()[:5] == [
        "1.000", "100.0%", "1", f"{2 * (rows * (352 + 128) + weight) / 1e6:.2f}", f"{2 * rows * weight / 1e9:.2f}",
    ]   # fmt: skip


def test_what_only_a_gpu_says(trtc_: Trtc, plan: Path, shakespeare: Path, tmp_path: Path) -> None:
    code, _, err = trtc_("inspect", plan, "--profile")
    assert code == 2 and err == f"error: {plan} says this only where it runs, but there is no GPU here\n"
    code, _, err = trtc_("inspect", shakespeare, "--layers")
    assert code == 2 and err.startswith(f"error: {shakespeare} is of target onnx, whose layers are its ops\n")
    (tmp_path / "x.json").write_text("[]")
    for file, message in (("none.json", "cannot be read, but must be JSON"), ("x.json", "must hold one JSON object")):
        code, _, err = trtc_("inspect", plan, "--inspector", tmp_path / file)
        assert (code, err) == (2, f"error: {tmp_path / file} {message}\n")
