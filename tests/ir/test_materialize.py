"""Constant expressions as bytes: equal to the graph's own evaluation, in order, and nothing held too long."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from hypothesis import given
from strategies import graphs
from testing_target import Halves

from trtc.ir.graph import Graph
from trtc.ir.materialize import Stored, frontier, materialize, stream, weights_of
from trtc.ir.op import Array, Value
from trtc.ir.ops import Add, Cast, Concat, Input, Linear, Mul, Neg, Slice, Transpose, Weight, scalar
from trtc.ir.sample import sample
from trtc.ir.types import bf16, f32

X = Input("x", f32["B", 8])


def graph(**outputs: Value) -> Graph:
    return Graph("g", (X,), outputs, {"B": (1, 4)})


@given(graphs())
def test_constants_are_what_evaluation_makes_them(g: Graph) -> None:
    tensors = sample(g, seed=0)
    values = dict(g.steps(tensors))
    for stored in frontier(g):
        np.testing.assert_array_equal(materialize(stored.value, tensors), values[stored.value])


@given(graphs())
def test_what_is_stored_is_all_that_the_rest_reads(g: Graph) -> None:
    stored = frontier(g)
    assert len({s.name for s in stored}) == len(stored)
    known = {s.value for s in stored}
    for op in g.ops:
        if not g.is_constant(op):
            for value in op.operands.values():
                inline = value.type.static and value.type.numel() == 1
                assert not g.is_constant(value) or value in known or inline


def test_names_are_places_and_roles() -> None:
    a, b = (Linear(X, Weight(k, f32[8, 8]), Weight(f"{k}.bias", f32[8]), loc="layers.0.mlp") for k in "ab")
    plain = Mul(X, Weight("g", f32[8]))
    names = [s.name for s in frontier(graph(y=Add(Add(a, b), plain)))]
    assert names == [
        "layers.0.mlp.weight", "layers.0.mlp.bias", "layers.0.mlp.weight.1", "layers.0.mlp.bias.1", "mul.b",
    ]   # fmt: skip


def test_a_shared_weight_is_stored_once() -> None:
    w = Weight("w", f32[8, 8])
    assert len(frontier(graph(y=Linear(Linear(X, w), w)))) == 1


def test_single_numbers_are_not_stored() -> None:
    assert frontier(graph(y=Mul(X, scalar(2, f32)))) == []


def test_what_the_engine_computes_is_not_stored() -> None:
    w = Weight("w", bf16[8, 8])
    y = Linear(X, Cast(w, f32), loc="lm_head")
    stored = frontier(graph(y=y), computed=lambda op: isinstance(op, Cast))
    assert stored == [Stored("cast.x", w)]


def test_an_op_of_several_results() -> None:
    first, second = Halves(Weight("w", f32[4, 8])).results
    tensors = {"w": np.arange(32, dtype=np.float32).reshape(4, 8)}
    np.testing.assert_array_equal(materialize(Concat((second, first), 1), tensors), np.roll(tensors["w"], 4, 1))


class Counted(Mapping[str, Array]):
    """Tensors that are made when read; says how many bytes are alive, and were at most."""

    def __init__(self, rows: int) -> None:
        self.rows, self.alive, self.most, self.released = rows, 0, 0, list[str]()

    def __getitem__(self, key: str) -> Array:
        array = np.full((self.rows, 256), float(len(key)), np.float32)
        self.alive += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(array, self.gone)
        return array

    def gone(self) -> None:
        self.alive -= 1

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def test_intermediates_are_let_go() -> None:
    value: Value = Weight("0", f32[64, 256])
    for n in range(1, 10):
        value = Add(Neg(value), Weight(str(n), f32[64, 256]))
    tensors = Counted(64)
    made = materialize(value, tensors, tensors.released.append)
    gc.collect()
    assert made.shape == (64, 256)
    assert tensors.alive == 0 and sorted(tensors.released) == [str(n) for n in range(10)]
    assert tensors.most <= 10


def test_a_view_is_not_released_while_it_is_read() -> None:
    w = Weight("w", f32[64, 256])
    released: list[str] = []
    view = Slice(Transpose(w, (1, 0)), 0, 0, 8)
    materialize(view, Counted(64), released.append)
    assert released == [] and weights_of(view) == ["w"]
    materialize(Neg(w), Counted(64), released.append)
    assert released == ["w"]


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_streams_in_order_and_holds_few(threads: int) -> None:
    running, most, lock = 0, 0, threading.Lock()

    class Slow(Mapping[str, Array]):
        def __getitem__(self, key: str) -> Array:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.002 * (1 + int(key) % 3))
            with lock:
                running -= 1
            return np.full(4, float(key), np.float32)

        def __iter__(self) -> Iterator[str]:
            return iter(())

        def __len__(self) -> int:
            return 0

    stored = [Stored(str(n), Neg(Weight(str(n), f32[4]))) for n in range(20)]
    found = [(s.name, float(a[0])) for s, a in stream(stored, Slow(), threads=threads)]
    assert found == [(str(n), -float(n)) for n in range(20)]
    assert most <= threads


def test_an_error_in_a_thread_is_raised() -> None:
    stored = [Stored("a", Neg(Weight("missing", f32[4])))]
    with pytest.raises(KeyError, match="missing"):
        list(stream(stored, {}))


