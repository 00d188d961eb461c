"""Graphs: their order, and replacing values everywhere at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import networkx
import numpy as np
import pytest
from hypothesis import given
from strategies import graphs
from testing_target import Halves

from trtc.ir.errors import IRError
from trtc.ir.graph import Graph
from trtc.ir.op import Array, Op, Value, at
from trtc.ir.ops import Add, Concat, Constant, Exp, Input, Linear, Mul, Neg, ReLU, Reshape, Tanh, Weight, scalar
from trtc.ir.sample import sample
from trtc.ir.types import Dim, TensorType, f16, f32

nx: Any = networkx   # its types are partial
X = Input("x", f32["B", 4])
BOUNDS = {"B": (1, 4)}


def graph(*values: Value, inputs: tuple[Input, ...] = (X,)) -> Graph:
    return Graph("g", inputs, {f"o{n}": v for n, v in enumerate(values)}, BOUNDS)


@given(graphs())
def test_order_agrees_with_networkx(g: Graph) -> None:
    edges = nx.MultiDiGraph()
    edges.add_nodes_from(g.outputs.values())
    waiting: list[Value] = list(g.outputs.values())
    while waiting:
        value = waiting.pop()
        assert isinstance(value, Op)
        for operand in value.operands.values():
            if operand not in edges:
                waiting.append(operand)
            edges.add_edge(operand, value)
    position = {op: i for i, op in enumerate(g.ops)}
    assert nx.is_directed_acyclic_graph(edges)
    assert set(edges.nodes) | set(g.inputs) == set(position)
    assert all(position[u] < position[v] for u, v in edges.edges())
    assert {v: len(users) for v, users in g.users.items() if users} == {
        v: d for v, d in edges.out_degree() if d
    }, "an op that reads a value twice is its user twice"


@given(graphs())
def test_constants_are_what_weights_alone_decide(g: Graph) -> None:
    for op in g.ops:
        reach = graph(op, inputs=()).ops
        depends = any(isinstance(o, Input) or not all(t.static for t in o.types) for o in reach)
        assert g.is_constant(op) != depends


def arrays(g: Graph) -> dict[str, Array]:
    return sample(g, seed=3)


def same(a: Graph, b: Graph) -> None:
    given_arrays = arrays(a)
    for want, got in zip(a.evaluate(given_arrays).values(), b.evaluate(given_arrays).values(), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_replace_everywhere() -> None:
    old = Tanh(X)
    g = graph(Add(old, Exp(old)), old)
    new = Neg(Neg(old.x))
    made = g.replace({old: new})
    assert str(made) == str(graph(Add(new, Exp(new)), new))


def test_a_replacement_may_contain_what_it_replaces() -> None:
    old = Tanh(X)
    g = graph(Exp(old), old)
    made = g.replace({old: (new := Neg(Neg(old)))})
    assert made == graph(Exp(new), new)
    same(g, made)


def test_replacements_of_an_op_and_of_its_operand() -> None:
    inner = Tanh(X)
    outer = Exp(inner)
    made = graph(outer).replace({inner: Neg(Neg(inner)), outer: ReLU(outer)})
    same(graph(outer), made)
    assert [op.name for op in made.ops] == ["input", "tanh", "neg", "neg", "exp", "relu"]


def test_replacements_that_stand_for_each_other() -> None:
    a, b = Add(X, X), Mul(X, scalar(2, f32))
    made = graph(Exp(a), Exp(b)).replace({a: b, b: a})
    same(graph(Exp(a), Exp(b)), made)


def test_a_chain_of_replacements() -> None:
    a, b, c = Tanh(X, loc="a"), Tanh(X, loc="b"), Tanh(X, loc="c")
    made = graph(Exp(a), Exp(b)).replace({a: b, b: c})
    assert [op.loc for op in made.ops if isinstance(op, Tanh)] == ["c"]


def test_replacing_an_input_keeps_the_signature() -> None:
    made = graph(Exp(X)).replace({X: Neg(Neg(X))})
    assert made.inputs == (X,) and [op.name for op in made.ops] == ["input", "neg", "neg", "exp"]


def test_one_result_of_several() -> None:
    y = Halves(X)
    first, second = y.results
    g = graph(Concat((second, first), 1))
    same(g, made := g.replace({second: Neg(Neg(second))}))
    assert [op.name for op in made.ops] == ["input", "testing.halves", "result", "neg", "neg", "concat"]
    same(g, made := g.replace({first: Neg(Neg(first))}))
    assert [op.name for op in made.ops].count("testing.halves") == 1


def test_all_results_of_several() -> None:
    y = Halves(X)
    g = graph(Concat(tuple(reversed(y.results)), 1))
    parts = y.decompose()
    same(g, made := g.replace(dict(zip(y.results, parts, strict=True))))
    assert "testing.halves" not in {op.name for op in made.ops}


def test_operands_of_an_op_of_several_results() -> None:
    inner = Tanh(X)
    y = Halves(inner)
    g = graph(*y.results)
    same(g, made := g.replace({inner: Neg(Neg(inner))}))
    assert [op.name for op in made.ops].count("testing.halves") == 1, "its results stay those of one op"


def test_what_nothing_replaced_stays_the_same_object() -> None:
    kept, old = Exp(X), Tanh(X)
    made = graph(kept, old).replace({old: Neg(X)})
    assert made.outputs["o0"] is kept


def test_deep_graphs_need_no_stack() -> None:
    value: Value = X
    for _ in range(20000):
        value = Neg(value)
    g = graph(value)
    made = g.replace({X: Neg(Neg(X))})
    assert len(g.ops) == 20001 and len(made.ops) == 20003 and len(str(made)) > 20000


def test_interleaved_evaluations_keep_their_own_sizes() -> None:
    g = graph(Reshape(Neg(X), (4, Dim.named("B"))))
    steps = [g.steps({"x": np.zeros((n, 4), np.float32)}) for n in (2, 3)]
    shapes = [(a[1].shape, b[1].shape) for a, b in zip(*steps, strict=True)]
    assert shapes == [((2, 4), (3, 4)), ((2, 4), (3, 4)), ((4, 2), (4, 3))]


def test_places_nest() -> None:
    with at("layers.0"), at("mlp"):
        y = Neg(X)
        with at("", absolute=False):
            assert Neg(X).loc == "layers.0.mlp"
        with at("lm_head", absolute=True):
            assert Neg(X).loc == "lm_head"
    assert y.loc == "layers.0.mlp" and Neg(X).loc == ""


BAD: Mapping[str, tuple[Callable[[], Graph], str]] = {
    "two inputs of a name": (
        lambda: graph(Neg(X), inputs=(X, Input("x", f32[4]))), "error: @g has 2 inputs named x"
    ),
    "an input that is none": (
        lambda: graph(Neg(X), inputs=()), "error: %x is read but is not an input of @g"
    ),
    "a size without bounds": (
        lambda: Graph("g", (X,), {"y": Neg(X)}, {}),
        "error: size B has no bounds\n  = help: add `B in 1..N` to @g",
    ),
    "an alias of another type": (
        lambda: Graph("g", (X,), {"x": Halves(X)}, BOUNDS),
        "error: output x is f32[B, 2], but the input it updates is f32[B, 4]",
    ),
    "an input that cannot be written": (
        lambda: graph(Neg(X), Input("a b", f32[4]), inputs=(X, Input("a b", f32[4]))),
        "error: %a b cannot be written, but names must be letters, digits, `_` and inner dots",
    ),
    "an output that cannot be written": (
        lambda: Graph("g", (X,), {"0": Neg(X)}, BOUNDS),
        "error: output 0 cannot be written, but names must be letters, digits, `_` and inner dots",
    ),
    "a size that cannot be written": (
        lambda: Graph("g", (), {"y": Weight("w", f32[4])}, {"inf": (1, 2)}),
        "error: size inf cannot be written, but names must be letters, digits, `_` and inner dots",
    ),
}   # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_verify(name: str) -> None:
    make, message = BAD[name]
    with pytest.raises(IRError) as caught:
        make().verify()
    assert str(caught.value) == message


def test_replacement_of_another_type() -> None:
    old = Tanh(X)
    with pytest.raises(IRError) as caught:
        graph(old).replace({old: Linear(X, Weight("w", f32[3, 4]))})
    assert str(caught.value) == "error: tanh is f32[B, 4], so a value of type f32[B, 3] cannot stand for it"


def test_constants_hold_what_their_type_can() -> None:
    with np.errstate(over="ignore"):
        assert Constant((1e30,), f16[2]).evaluate().tolist() == [np.inf, np.inf]
    assert Constant((3,), TensorType(f32, ())).evaluate().shape == ()
