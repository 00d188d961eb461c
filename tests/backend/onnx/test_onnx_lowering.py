"""Every op that ONNX Runtime runs gives what it means, over sizes that are known only at run time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_engine
import pytest

from trtc.backend.onnx import ops as ort_ops
from trtc.backend.onnx.lower import LOWERINGS
from trtc.backend.targets import target
from trtc.ir import ops as o
from trtc.ir.graph import Graph
from trtc.ir.op import Op, Value
from trtc.ir.types import Dim, TensorType, bool_, f16, f32, i32, i64
from trtc.ir.types import evaluate as value_of

B, S, M = Dim.named("B"), Dim.named("S"), Dim.named("M")
BOUNDS = {"B": (1, 4), "S": (1, 7), "M": (8, 16)}
SIZES = ({"B": 1, "S": 1, "M": 8}, {"B": 3, "S": 5, "M": 9}, {"B": 4, "S": 4, "M": 16})


@dataclass(frozen=True)
class Case:
    """An op, its operands' types, and the range of their elements: for integers below a size's value, for floats."""

    make: Callable[[Any], Value] | Callable[[Any, Any], Value] | Callable[[Any, Any, Any], Value]
    operands: tuple[TensorType, ...]
    low: float = -3
    high: float = 3

    @property
    def name(self) -> str:
        return type(self.graph().outputs["y"]).__name__

    def graph(self) -> Graph:
        inputs = tuple(o.Input(f"x{i}", of) for i, of in enumerate(self.operands))
        make: Callable[..., Value] = self.make
        made = make(*inputs)
        assert isinstance(made, Op)
        names = ["y", *(f"y{i}" for i in range(1, len(made.types)))]
        return Graph("one", inputs, dict(zip(names, made.results, strict=True)), BOUNDS)

    def feeds(self, sizes: dict[str, int], seed: int) -> dict[str, Any]:
        random = np.random.default_rng(seed)
        found: dict[str, Any] = {}
        for i, of in enumerate(self.operands):
            shape = [value_of(s, sizes) for s in of.shape]
            if of.dtype == bool_:
                found[f"x{i}"] = random.random(shape) < 0.5
            elif of.dtype.is_float:
                found[f"x{i}"] = random.uniform(self.low, self.high, shape).astype(of.dtype.numpy)
            else:
                found[f"x{i}"] = random.integers(int(self.low), int(self.high), shape).astype(of.dtype.numpy)
        return found


X = f32["B", "S", 6]
HEADS = f32["B", 2, "S", 8]
CASES = [
    *(Case(kind, (X, f32["S", 1])) for kind in (o.Add, o.Sub, o.Mul, o.Maximum, o.Minimum, o.Less, o.LessEqual)),
    *(Case(kind, (i32["B", 1], i32["S"])) for kind in (o.Add, o.Sub, o.Mul, o.Maximum, o.Minimum, o.LessEqual)),
    Case(o.Div, (X, X), 0.5), Case(o.Pow, (f32["B", "S"], f32["S"]), 0.1), Case(o.Less, (i64["B"], i64["B"])),
    Case(o.And, (bool_["B", 1], bool_["S"])), Case(o.Where, (bool_["S", 1], X, f32[()])),
    Case(lambda c, x: o.Where(c, x, o.scalar(-np.inf, f32)), (bool_["B", "S", 6], X)),
    *(Case(kind, (X,)) for kind in (o.Neg, o.Exp, o.Tanh, o.Sigmoid, o.Erf, o.Cos, o.Sin, o.ReLU, o.SiLU, o.GELU)),
    Case(lambda x: o.GELU(x, tanh=True), (X,)), Case(o.SiLU, (X,), -40, 40),
    Case(o.Sqrt, (X,), 0.01), Case(o.Reciprocal, (X,), 0.5),
    *(Case(lambda x, kind=kind, axis=axis: kind(x, axis), (X,))
      for kind in (o.ReduceSum, o.ReduceMean, o.ReduceMax, o.Softmax) for axis in range(3)),
    Case(lambda x: o.ReduceMax(x, 0), (i32["B"],)), Case(lambda x: o.ReduceSum(x, 1), (i32["B", "S"],)),
    Case(o.MatMul, (f32["B", 2, "S", 5], f32["B", 2, 5, "M"])), Case(o.MatMul, (f32["B", 1, "S", 5], f32[3, 5, 4])),
    Case(o.Linear, (X, f32[5, 6])), Case(o.Linear, (X, f32[5, 6], f32[5])), Case(o.Linear, (f32["S", 6], f32[1, 6])),
    Case(o.RMSNorm, (X, f32[6])), Case(lambda x, w: o.RMSNorm(x, w, eps=0.5), (f32["S", 6], f32[6])),
    Case(o.LayerNorm, (X, f32[6])), Case(o.LayerNorm, (X, f32[6], f32[6])),
    Case(lambda x, y, w: ort_ops.SkipRMSNorm(x, y, w, eps=1e-3), (X, X, f32[6])),
    *(Case(lambda x, c, s, order=order: o.Rope(x, c, s, order), (HEADS, f32["B", "S", half], f32["B", "S", half]))
      for half in (4, 2, 1) for order in (False, True)),
    Case(lambda x: o.Cast(x, i32), (X,)), Case(lambda x: o.Cast(x, f16), (X,)),
    Case(lambda x: o.Cast(x, f32), (f16["S"],)),
    Case(lambda x: o.Cast(x, f32), (i64["S"],)), Case(lambda x: o.Cast(x, f32), (bool_["S"],)),
    Case(lambda x: o.Reshape(x, (B, S, 2, 3)), (X,)), Case(lambda x: o.Reshape(x, (B * S, 6)), (X,)),
    Case(lambda x: o.Reshape(x, (S, B, 6)), (X,)), Case(lambda x: o.Reshape(x, (B * S * 6,)), (X,)),
    Case(lambda x: o.Reshape(x, (2, 3, S * B)), (X,)), Case(lambda x: o.Reshape(x, (1, B, S, 1, 6)), (X,)),
    Case(lambda x: o.Reshape(x, (B, 2 * S, 3)), (X,)), Case(lambda x: o.Reshape(x, (4, 3)), (f32[2, 6],)),
    Case(lambda x: o.Reshape(x, ()), (f32[1, 1],)), Case(lambda x: o.Reshape(x, (S * 2, 3, B)), (X,)),
    Case(lambda x, _: o.Broadcast(x, (B, S, 6)), (f32["S", 1], i32["B"])),
    Case(lambda x, _: o.Broadcast(x, (B, S + 1, M)), (f32[1, "M"], i32["B", "S"])),
    *(Case(lambda x, axes=axes: o.Transpose(x, axes), (X,)) for axes in ((0, 2, 1), (2, 0, 1), (1, 0, 2))),
    Case(lambda x: o.Slice(x, 2, 1, 3), (X,)), Case(lambda x: o.Slice(x, 0, 5, 1), (i32[6, "S"],)),
    Case(lambda x, y, z: o.Concat((x, y, z), 1), (X, f32["B", "M", 6], X)), Case(lambda x: o.Concat((x,), 0), (X,)),
    Case(o.Embedding, (f32[5, 6], i32["B", "S"]), 0, 5), Case(o.Embedding, (f16[5, 6], i64["S"]), 0, 5),
    Case(o.Gather, (f32["M", 3], i32["B", "S"]), 0, 8),
    Case(lambda x, i: o.Gather(x, i, 1), (f32["B", "M", 2], i64["S"]), 0, 8),
    Case(lambda x, i: o.Gather(x, i, 1, 1), (f32["B", "M", 2], i32["B", "S"]), 0, 8),
    Case(lambda x, i: o.Gather(x, i, 1, 1), (f32["B", "M", 2], i32["B"]), 0, 8),
    Case(lambda x, i: o.Gather(x, i, 2, 1), (f32["B", 3, "M", 2], i32["B", "S"]), 0, 8),
    Case(lambda x, i: o.Gather(x, i, 3, 1), (f32["B", 3, 2, "M"], i32["B", "S", 2]), 0, 8),
    Case(lambda x, i: o.Gather(x, i, 2, 2), (f32["B", 3, "M"], i64["B", 3, "S"]), 0, 8),
    Case(lambda x, i: o.Gather(x, i, 3, 2), (f16["B", 3, 2, "M", 4], i32["B", 3, "S"]), 0, 8),
    *(Case(lambda x, k=k: o.TopK(x, k), (X,)) for k in (1, 4, 6)), Case(lambda x: o.TopK(x, 2), (f32[7],)),
    Case(lambda _: o.Iota(S), (X,)), Case(lambda _: o.Iota(B * S + 2 * M - 3), (f32["B", "S", "M"],)),
    Case(lambda x: o.SizeOf(x, 0), (f32["M", "B"],)), Case(lambda x: o.SizeOf(x, 1), (f32["M", 4],)),
    Case(o.KVCacheUpdate, (f32["B", 2, "M", 4], f32["B", 2, "S", 4], i32["B"]), 0, 3),
    Case(o.KVCacheUpdate, (f16["B", 1, "M", 6], f16["B", 1, "S", 6], i32["B"]), 0, 3),
]   # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_op(case: Case, tmp_path: Path) -> None:
    graph = case.graph()
    made = graph.outputs["y"]
    assert isinstance(made, Op) and target("onnx").refuses(made) is None
    for seed, sizes in enumerate(SIZES):
        onnx_engine.check(graph, case.feeds(sizes, seed), tmp_path)


def test_every_lowering_is_tested() -> None:
    tested = {type(case.graph().outputs["y"]) for case in CASES}
    assert set(LOWERINGS) - tested == {ort_ops.GroupQueryAttention, ort_ops.MoE}   # they have files of their own
    assert set(LOWERINGS) == set(target("onnx").native)
