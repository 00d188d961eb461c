"""ONNX models: names of outputs, constants, weights that stay as narrow as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx_engine
import pytest

import trtc
from trtc.backend.bundle import BundleWriter
from trtc.backend.onnx.build import PAGE, build, stored_bytes
from trtc.backend.targets import target
from trtc.compiler import plan, read_model
from trtc.errors import MissingPackage
from trtc.ir import ops as o
from trtc.ir.errors import IRError
from trtc.ir.graph import Graph
from trtc.ir.types import TensorType, bf16, f16, f32, i32

X = o.Input("x", f32["B", 4])
BOUNDS = {"B": (1, 4)}
FEEDS: dict[str, Any] = {"x": np.arange(8, dtype=np.float32).reshape(2, 4)}
W = o.Weight("w", f32[4])
WEIGHTS: dict[str, Any] = {
    "w": np.array([1, -2, 3, 0.5], np.float32), "h": np.arange(12).reshape(3, 4).astype(np.float16),
}   # fmt: skip


def test_outputs_of_every_origin(tmp_path: Path) -> None:
    """An input, one made twice, a weight, an expression of weights, literals, and one that others read besides."""
    y = o.Mul(X, W, loc="y")
    outputs = {
        "input": X, "y": y, "again": y, "z": o.Add(y, X), "weight": W, "expression": o.Add(W, W),
        "one": o.scalar(3, i32), "filled": o.Constant((2.0,), f32[1, 1]), "listed": o.Constant((1, 2, 3), i32[3]),
        "also": W,
    }   # fmt: skip
    onnx_engine.check(Graph("g", (X,), outputs, BOUNDS), FEEDS, tmp_path, WEIGHTS)


def test_outputs_that_alias(tmp_path: Path) -> None:
    """A cache that is updated, one that is handed through, and one whose new value is another output as well."""
    a, b, c = (o.Input(key, f32["B", 4]) for key in "abc")
    new = o.Add(c, X)
    graph = Graph("g", (X, a, b, c), {"a": o.Add(a, X), "b": b, "c": new, "y": new}, BOUNDS)
    feeds = {**FEEDS, "a": FEEDS["x"] + 1, "b": FEEDS["x"] * 2, "c": FEEDS["x"] * 3}
    assert sorted(onnx_engine.check(graph, feeds, tmp_path)) == ["a.next", "b.next", "c.next", "y"]


def test_names_come_from_locs_and_never_clash(tmp_path: Path) -> None:
    first, second = o.Mul(X, W, loc="layer"), o.Mul(X, o.Weight("v", f32[4]), loc="layer")
    graph = Graph("g", (X,), {"y": o.Add(first, second, loc="layer")}, BOUNDS)
    file = onnx_engine.write_model(graph, tmp_path, {**WEIGHTS, "v": WEIGHTS["w"] * 2})
    made = onnx_engine.onnx.load(file)
    assert [t.name for t in made.graph.initializer] == ["layer.b", "layer.b.1"]
    assert [n.name for n in made.graph.node] == ["layer/Mul.0", "layer/Mul.1", "layer/Add.2"]
    assert [i.name for i in made.graph.input] == ["x"] and [i.name for i in made.graph.output] == ["y"]
    assert [(d.domain, d.version) for d in made.opset_import] == [("", 24), ("com.microsoft", 1)]


def test_external_tensors_begin_on_pages(tmp_path: Path) -> None:
    v = o.Weight("v", f32[3, 4])
    graph = Graph("g", (X,), {"y": o.Linear(o.Mul(X, W), v)}, BOUNDS)
    file = onnx_engine.write_model(graph, tmp_path, {**WEIGHTS, "v": np.ones((3, 4), np.float32)})
    made = onnx_engine.onnx.load(file, load_external_data=False)
    places = [{e.key: e.value for e in t.external_data} for t in made.graph.initializer]
    assert places == [
        {"location": "weights.bin", "offset": "0", "length": "16"},
        {"location": "weights.bin", "offset": str(PAGE), "length": "48"},
    ]
    assert (file.parent / "weights.bin").stat().st_size == PAGE + 48
    assert stored_bytes(graph) == 64


@pytest.mark.parametrize("dtype", [f16, bf16])
def test_narrow_weights_are_stored_narrow_and_once(dtype: Any, tmp_path: Path) -> None:
    """Read in f32 twice and by an output; an expression that widens inside is stored as what it gives."""
    w = o.Weight("h", dtype[3, 4])
    wide = o.Cast(w, f32)
    y = o.Linear(o.Add(o.Linear(X, wide), o.scalar(1, f32)), o.Transpose(wide, (1, 0)))
    graph = Graph("g", (X,), {"y": y, "w": wide}, BOUNDS)
    weights = {"h": WEIGHTS["h"].astype(dtype.numpy)}
    onnx_engine.check(graph, FEEDS, tmp_path, weights)
    assert (tmp_path / "rank0/weights.bin").stat().st_size == PAGE + 12 * 4
    assert stored_bytes(graph) == 12 * 2 + 12 * 4   # h, and its transpose in f32
    merged = o.Concat((wide, o.Cast(o.Weight("g", dtype[3, 4]), f32)), 0)
    graph = Graph("g", (X,), {"y": o.Linear(X, merged)}, BOUNDS)
    onnx_engine.check(graph, FEEDS, tmp_path, {**weights, "g": weights["h"]})
    assert stored_bytes(graph) == 24 * 4   # h and g themselves are not stored besides
    assert [n.op_type for n in onnx_engine.nodes(tmp_path / "rank0/model.onnx")] == ["FusedMatMul"]


@pytest.mark.parametrize("name", ["biases-gelu-head10", "gqa-tied-head16", "yarn-mscale-sharded", "mha"])
def test_engines_of_16_bit_weights_have_16_bit_files(name: str, tmp_path: Path) -> None:
    """Within the tables of rotary positions, of f32, and 1 page a tensor of what the checkpoint's parameters take."""
    folder = models.checkpoint(name)
    trtc.compile(folder, tmp_path / "engine", target="onnx", dtype="float16", **models.LIMITS)
    model = models.load(folder)
    parameters = sum(p.numel() for p in model.parameters())
    made = plan(read_model(folder, dtype="float16", **models.LIMITS), target="onnx")
    tables = 2 * 48 * 4 * model.config.head_dim // 2
    assert 2 * parameters <= made.stored_bytes <= 2 * parameters + tables
    tensors = onnx_engine.onnx.load(tmp_path / "engine/rank0/model.onnx", load_external_data=False).graph.initializer
    size = (tmp_path / "engine/rank0/weights.bin").stat().st_size
    assert made.stored_bytes <= size <= made.stored_bytes + PAGE * len(tensors)


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    folder = models.checkpoint("gqa-tied-head16")
    trtc.compile(folder, tmp_path / "engine", target="onnx", dtype="float32", **models.LIMITS)
    made = onnx_engine.onnx.load(tmp_path / "engine/rank0/model.onnx", load_external_data=False)
    assert [list(t.dims) for t in made.graph.initializer if 1009 in t.dims] == [[1009, 32]]


def test_progress_and_release(tmp_path: Path) -> None:
    """Told of every byte, in order, and of every tensor that is done with."""
    told: list[tuple[str, int, int]] = []
    released: list[str] = []

    def tell(phase: str, done: int, total: int) -> None:
        told.append((phase, done, total))

    v = o.Weight("v", f32[3, 4])
    graph = Graph("g", (X,), {"y": o.Linear(o.Mul(X, o.Add(W, W)), v)}, BOUNDS)
    build(
        graph, {**WEIGHTS, "v": np.ones((3, 4), np.float32)}, BundleWriter(tmp_path), "rank0",
        progress=tell, release=released.append,
    )   # fmt: skip
    total = PAGE + 48
    assert told == [("weights", 16, total), ("weights", total, total), ("model", 0, 1), ("model", 1, 1)]
    assert set(released) == {"w", "v"}


def test_without_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(MissingPackage) as error:
        build(Graph("g", (X,), {"y": X}, BOUNDS), {}, BundleWriter(tmp_path), "rank0")
    message = "error: onnx is needed to write ONNX models, but is not installed\n  = help: pip install 'trtc[onnx]'"
    assert str(error.value) == message


@pytest.mark.parametrize("dtype", [f16, bf16])
def test_the_target_says_why_not(dtype: Any) -> None:
    x = o.Input("x", TensorType(dtype, (2, 2)))
    op = o.Add(x, x)
    assert target("onnx").refuses(op) == f"it has no {dtype} kernel of add"
    assert target("onnx").refuses(o.Cast(x, f32)) is None
    swiglu = o.SwiGLU(X, X)
    assert target("onnx:1.24").refuses(swiglu) == "onnx:1.24 has no swiglu"


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("1.23.2", (
            "target onnx is 1.23.2, but must be 1.24 or newer, which run opset 24\n"
            "  = help: pip install --upgrade onnxruntime"
        )),
        ("newest", "the version of target onnx is newest, but must be numbers\n  = help: onnx:1.24"),
    ],
)   # fmt: skip
def test_versions_that_cannot_be(version: str, message: str) -> None:
    with pytest.raises(IRError) as error:
        target(f"onnx:{version}")
    assert str(error.value) == f"error: {message}"
    assert str(target("onnx:1.24.1")) == "onnx:1.24.1" and str(target("onnx:2")) == "onnx:2"
