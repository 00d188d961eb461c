"""``trtc inspect``: what is said of an engine, beside what its files say."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from commandline import MODEL, Trtc

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
