"""Graphs built into ONNX models and run by ONNX Runtime, for the tests."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trtc.backend.bundle import BundleWriter
from trtc.backend.onnx.build import build
from trtc.ir.graph import Graph

onnx: Any = import_module("onnx")
ort: Any = import_module("onnxruntime")
Array = npt.NDArray[Any]


def write_model(graph: Graph, folder: Path, weights: Mapping[str, Array] | None = None) -> Path:
    """The file of the graph's ONNX model, checked by onnx.checker as every build is."""
    writer = BundleWriter(folder)
    rank = build(graph, weights or {}, writer, "rank0")
    return folder / str(rank["engine"])


def open_model(file: Path) -> Any:
    """A session on one thread that says nothing but errors."""
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def run(
    graph: Graph, feeds: Mapping[str, Array], folder: Path, weights: Mapping[str, Array] | None = None
) -> dict[str, Array]:
    """The graph's outputs by ONNX Runtime; those that alias an input under its name and ``.next``."""
    session = open_model(write_model(graph, folder, weights))
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def nodes(file: Path) -> list[Any]:
    """The nodes of a model, in order."""
    return list(onnx.load(file, load_external_data=False).graph.node)


def check(
    graph: Graph,
    feeds: Mapping[str, Array],
    folder: Path,
    weights: Mapping[str, Array] | None = None,
    *,
    atol: float = 1e-5,
) -> dict[str, Array]:
    """Assert that ONNX Runtime gives what the graph means; f32 and short sums unless ``atol`` says more."""
    got = run(graph, feeds, folder, weights)
    want = graph.evaluate({**(weights or {}), **feeds})
    for name, array in want.items():
        made = got[f"{name}.next" if name in graph.aliases else name]
        assert (made.dtype, made.shape) == (array.dtype, array.shape), name
        np.testing.assert_allclose(made.astype(np.float64), array.astype(np.float64), rtol=1e-5, atol=atol)
    return got
