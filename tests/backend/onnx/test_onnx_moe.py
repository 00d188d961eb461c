"""ONNX Runtime's kernel of experts: what it means, and where it is used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_engine
import pytest

from trtc.backend import targets
from trtc.backend.onnx.ops import MoE
from trtc.ir import ops as o
from trtc.ir.graph import Graph
from trtc.ir.op import Array
from trtc.ir.types import DType, bf16, f16, f32, i32
from trtc.passes import Pipeline

HIDDEN, WIDTH = 8, 6


def experts(count: int, picks: int, dtype: DType = f32) -> Graph:
    x, chosen, shares = o.Input("x", dtype["N", HIDDEN]), o.Input("chosen", i32["N", picks]), dtype["N", picks]
    sizes = {"fc": (count, WIDTH, HIDDEN), "gate": (count, WIDTH, HIDDEN), "proj": (count, HIDDEN, WIDTH)}
    weights = [o.Weight(key, dtype[shape]) for key, shape in sizes.items()]
    inputs = (x, chosen, o.Input("shares", shares))
    return Graph("g", inputs, {"y": o.Experts(*inputs, *weights)}, {"N": (1, 9)})


def feeds(tokens: int, count: int, picks: int) -> dict[str, Array]:
    random = np.random.default_rng(0)
    shares = random.random((tokens, picks)).astype(np.float32)
    shares[0] = 0
    shares[-1, 0] = 0 if picks > 1 else 1
    return {
        "x": random.standard_normal((tokens, HIDDEN)).astype(np.float32),
        "chosen": np.argsort(random.random((tokens, count)), -1)[:, :picks].astype(np.int32),
        "shares": shares,
    }


def numbers(graph: Graph) -> dict[str, Array]:
    """Weights such that what an expert gives is about 1."""
    random = np.random.default_rng(1)
    found: dict[str, Array] = {}
    for op in graph.ops:
        if isinstance(op, o.Weight):
            shape = [int(str(size)) for size in op.shape]
            found[op.key] = (random.standard_normal(shape) / 3).astype(op.dtype.numpy)
    return found


@pytest.mark.parametrize("tokens", [1, 9])
@pytest.mark.parametrize(("count", "picks"), [(1, 1), (4, 1), (4, 2), (4, 4), (60, 4)])
def test_the_kernel_gives_the_sum_of_the_chosen_experts(count: int, picks: int, tokens: int, tmp_path: Path) -> None:
    assert "onnx" in targets.TARGETS
    plain = experts(count, picks)
    graph = Pipeline.parse("lower{target=onnx}").run(plain)
    assert [type(op) for op in graph.ops if isinstance(op, MoE | o.Experts)] == [MoE]
    weights = numbers(plain)
    given = feeds(tokens, count, picks)
    got = onnx_engine.check(graph, given, tmp_path, weights)["y"]
    np.testing.assert_allclose(got, plain.evaluate({**given, **weights})["y"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [f16, bf16], ids=str)
def test_narrow_weights_are_stored_as_they_are(dtype: DType, tmp_path: Path) -> None:
    graph = Pipeline.parse("lower{target=onnx}").run(experts(4, 2, dtype))
    onnx_engine.check(graph, feeds(5, 4, 2), tmp_path, numbers(graph))
    stored = (tmp_path / "rank0/weights.bin").stat().st_size
    assert stored < 2 * 4096 + 3 * 4 * WIDTH * HIDDEN * 2   # two tensors, each from a page on
