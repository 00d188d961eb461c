"""Each op that TensorRT-RTX takes natively is lowered to layers that mean what the op means."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from trtc.backend.tensorrt.lower import LOWERINGS
from trtc.backend.tensorrt.plugins import is_kernels
from trtc.backend.tensorrt.target import tensorrt_rtx
from trtc.ir import Array, Dim, DType, Graph, Op, TensorType, at, bf16, bool_, f16, f32, i32, i64
from trtc.ir import ops as o
from trtc.passes.rewrite import apply

pytest.importorskip("tensorrt_rtx_bindings")

from tensorrt_evaluator import build_plan, network_of

SIZES = {"B": 2, "S": 3, "P": 4}
BOUNDS = {"B": (1, 4), "S": (1, 8), "P": (1, 8)}
TARGET = tensorrt_rtx("")
B, S, P = map(Dim.named, SIZES)
Shape: TypeAlias = tuple[Any, ...]


class Case:
    """One op.

    Args:
        shapes: of its operands; one that is led by an element type has that instead of the test's, None is absent.
        least: of the operands' numbers, which go to 3.
        sizes: of a further input that the op does not read.
    """

    def __init__(self, *shapes: Shape | None, least: float = -3, sizes: Shape = (), **attributes: Any) -> None:
        self.shapes, self.least, self.sizes, self.attributes = shapes, least, sizes, attributes


BINARY, UNARY = (("B", "S", 4), ("S", 1)), ("B", "S", 4)
QKV = (("B", 4, "S", 16), ("B", 2, 8, 16), ("B", 2, 8, 16))
LENGTHS, MASK = (i32, "B"), (bool_, "S", 8)

CASES: dict[type[Op], list[Case]] = {
    **{kind: [Case(*BINARY)] for kind in (o.Add, o.Sub, o.Mul, o.Maximum, o.Minimum, o.Less, o.LessEqual)},
    **{kind: [Case(*BINARY, least=0.5)] for kind in (o.Div, o.Pow)},
    **{kind: [Case(UNARY)] for kind in (o.Neg, o.Exp, o.Tanh, o.Sigmoid, o.Erf, o.Cos, o.Sin, o.ReLU)},
    **{kind: [Case(UNARY, least=0.5)] for kind in (o.Sqrt, o.Reciprocal)},
    **{kind: [Case(UNARY, axis=1)] for kind in (o.ReduceSum, o.ReduceMean, o.ReduceMax, o.Softmax)},
    o.And: [Case((bool_, "B", "S"), (bool_, "S"))],
    o.Where: [Case((bool_, "B", "S", 1), ("S", 4), ("B", 1, 1)), Case((bool_, "B"), (), (1,))],
    o.Cast: [Case(UNARY, to=to) for to in (f32, f16, bf16, i32, i64, bool_)],
    o.GELU: [Case(UNARY), Case(UNARY, tanh=True)],
    o.MatMul: [Case(("B", 4, "S", 8), (1, 8, 5)), Case(("B", "S"), ("S", 3))],
    o.Linear: [Case(("B", "S", 8), (5, 8)), Case(("B", 8), (5, 8), (5,))],
    o.Embedding: [Case((7, 4), (i32, "B", "S"))],
    o.Gather: [
        Case((7, "S"), (i32, "B")),
        Case(("B", "S", 7, 2), (i32, "B", 3), axis=2, batch=1),
        Case(("B", 7, 2), (i64, "B"), axis=1, batch=1),
    ],
    o.Reshape: [
        Case(UNARY, sizes_=(B, S, 2, 2)),
        Case(UNARY, sizes_=(B * S, 4)),
        Case(UNARY, sizes_=(2 * S, 2, B)),
        Case(("S", "B"), sizes_=(B, S)),
        Case((1, 1), sizes_=()),
    ],
    o.Broadcast: [
        Case(("S", 1), sizes_=(B, S, 4), sizes=("B",)),
        Case((3,), sizes_=(2, 3)),
        Case((1, 2), sizes_=(B + S - 1, 2), sizes=("B", "S")),
    ],
    o.Transpose: [Case(UNARY, axes=(2, 0, 1))],
    o.Slice: [Case(UNARY, axis=2, start=1, size=2), Case((4, 3), axis=0, start=1, size=2)],
    o.Concat: [Case(("B", "S", 4), ("B", 2, 4), ("B", "P", 4), axis=1)],
    o.TopK: [Case(("B", "S", 7), k=3), Case(("S", 4), k=4), Case(("S", 5), k=1)],
    o.Iota: [Case(size=S, sizes=("S",)), Case(size=2 * S * B + 3, sizes=("B", "S"))],
    o.SizeOf: [Case(UNARY, axis=axis) for axis in range(3)],
    o.Rope: [
        Case(("B", 2, "S", 8), ("B", "S", 4), ("B", "S", 4)),
        Case(("B", 2, "S", 8), ("B", "S", 2), ("B", "S", 2), interleaved=True),
    ],
    o.KVCacheUpdate: [Case(("B", 2, 8, 4), ("B", 2, "S", 4), LENGTHS)],
    o.Attention: [
        Case(*QKV),
        Case(*QKV, LENGTHS, scale=0.3),
        Case(*QKV, LENGTHS, scale=0.25, causal=False),
        Case(*QKV, None, MASK, causal=False),
        Case(("B", 4, "S", 20), ("B", 4, 8, 20), ("B", 4, 8, 20), LENGTHS, scale=0.2),
        Case(("B", 4, "S", 12), ("B", 2, 8, 12), ("B", 2, 8, 6), LENGTHS, scale=0.3),
        Case(*QKV, LENGTHS, MASK, scale=0.3),
        Case(*QKV, LENGTHS, scale=0.3, window=2),
        Case(*QKV, LENGTHS, (bool_, "B", 1, "S", 8), causal=False, window=2),
    ],
}
LISTED = [(kind, n) for kind, cases in CASES.items() for n in range(len(cases))]
TOLERANCE = {f32: 1e-5, f16: 2**-10, bf16: 2**-7}   # relative, one step of the result's type; f32: order of sums


def graph_of(kind: type[Op], case: Case, dtype: DType, name: str = "x") -> Graph:
    def declared(n: int, shape: Shape) -> o.Input:
        of, sizes = (shape[0], shape[1:]) if shape and isinstance(shape[0], DType) else (dtype, shape)
        return o.Input(f"{name}{n}", TensorType(of, tuple(Dim.named(s) if isinstance(s, str) else s for s in sizes)))

    operands: tuple[Any, ...] = tuple(s if s is None else declared(n, s) for n, s in enumerate(case.shapes))
    further = (declared(len(operands), case.sizes),) if case.sizes else ()
    with at(name):
        attributes = {key.rstrip("_"): value for key, value in case.attributes.items()}
        op = kind(*((operands,) if kind is o.Concat else operands), **attributes)
    return Graph("one", (*filter(None, operands), *further), {"y": op}, BOUNDS)


def numbers(case: Case, value: o.Input, random: np.random.Generator) -> Array:
    shape = tuple(SIZES[str(s)] if isinstance(s, Dim) else s for s in value.shape)
    if value.dtype == bool_:
        return (random.random(shape) < 0.8) | (np.arange(shape[-1]) == 0)   # every token sees the first key
    if not value.dtype.is_float:
        return random.integers(3, 6, shape).astype(value.dtype.numpy)
    return np.asarray(random.uniform(case.least, 3, shape), value.dtype.numpy)


ELSEWHERE = {o.Experts, o.PackedAttention, o.PackedKVCacheUpdate, o.AllReduce, o.AllGather, o.ReduceScatter}
"""Whose cases are in test_layers_beyond_rtx.py."""


def test_every_native_op_has_a_lowering_and_a_case() -> None:
    plugins = {kind for kind in TARGET.native if is_kernels(kind)}   # of which test_plugins.py has cases
    assert set(TARGET.native) - plugins == set(LOWERINGS) == {*CASES, *ELSEWHERE}


@pytest.mark.parametrize("dtype", [f32, f16, bf16], ids=str)
@pytest.mark.parametrize(("kind", "n"), LISTED, ids=[f"{kind.name}-{n}" for kind, n in LISTED])
def test_the_layers_mean_what_the_op_means(kind: type[Op], n: int, dtype: DType) -> None:
    case = CASES[kind][n]
    graph = graph_of(kind, case, dtype)
    lowered = apply(graph, TARGET.plugins[0], "test")
    assert all(TARGET.refuses(op) is None for op in lowered.ops if not isinstance(op, o.Input | o.Constant))
    random = np.random.default_rng(0)
    feeds = {i.key: numbers(case, i, random) for i in graph.inputs}
    want, got = graph.evaluate(feeds)["y"], network_of(lowered, {})(feeds)["y"]
    assert got.dtype == want.dtype and got.shape == want.shape
    tolerance = TOLERANCE.get(graph.outputs["y"].dtype, 0)
    if kind is o.Attention and dtype != f32:   # scaled queries are rounded, scores are not: up to 16 products of 3 x 3
        tolerance *= 16
    np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=tolerance, atol=tolerance)


def test_numbers_stand_in_the_network_itself() -> None:
    x = o.Input("x", bf16["B", "S"])
    y = o.Where(o.Less(x, o.scalar(0, bf16)), o.scalar(-np.inf, bf16), o.Mul(o.Constant((3.0,), bf16[1, 1]), x))
    network = network_of(Graph("g", (x,), {"y": y}, BOUNDS), {})
    array = np.array([[-1, 2], [0.5, -0.25]], bf16.numpy)
    assert network({"x": array})["y"].tolist() == [[-np.inf, 6], [1.5, -np.inf]]
    assert {str(a.dtype) for a in network.constants.values()} == {"bfloat16"}


def test_comparisons_with_nan_are_false() -> None:
    x = o.Input("x", f32["B"])
    network = network_of(Graph("g", (x,), {"y": o.LessEqual(x, o.scalar(1, f32))}, BOUNDS), {})
    assert network({"x": np.array([0, 1, 2, np.nan], np.float32)})["y"].tolist() == [True, True, False, False]


def test_layers_of_one_place_have_names_of_their_own() -> None:
    x = o.Input("x", f32["B"])
    with at("mlp"):
        y = o.Neg(o.Neg(o.Neg(x)))
    network = network_of(Graph("g", (x,), {"y": y}, BOUNDS), {}).network
    assert [network.get_layer(n).name for n in range(3)] == ["mlp/neg", "mlp/neg#2", "mlp/neg#3"]


@pytest.mark.parametrize("dtype", [f32, f16, bf16], ids=str)
def test_tensorrt_builds_all_of_them(dtype: DType, tmp_path: Path) -> None:
    graphs = {f"{kind.name}.{n}": graph_of(kind, CASES[kind][n], dtype, f"{kind.name}.{n}.") for kind, n in LISTED}
    inputs = tuple(i for g in graphs.values() for i in g.inputs)
    graph = Graph("all", inputs, {name: g.outputs["y"] for name, g in graphs.items()}, BOUNDS)
    plan, said = build_plan(apply(graph, TARGET.plugins[0], "test"), {}, tmp_path / "engine")
    assert [output["name"] for output in said["outputs"]] == list(graphs)
    assert len(plan) > 100_000
