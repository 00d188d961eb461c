"""Random inputs that a graph's ops can take."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import graphs

from trtc.ir.errors import IRError
from trtc.ir.graph import Graph
from trtc.ir.op import Value
from trtc.ir.ops import (
    Add,
    Attention,
    Cast,
    Embedding,
    Gather,
    Input,
    Iota,
    KVCacheUpdate,
    Linear,
    Neg,
    Reshape,
    Sub,
    Weight,
    scalar,
)
from trtc.ir.sample import sample
from trtc.ir.types import Dim, bf16, f16, f32, i4, i32

B, S, M = Dim.named("B"), Dim.named("S"), Dim.named("M")
BOUNDS = {"B": (1, 8), "S": (1, 64), "M": (1, 128)}
SEEDS = range(30)


def graph(value: Value, *inputs: Input, bounds: dict[str, tuple[int, int]] | None = None) -> Graph:
    return Graph("g", inputs, {"y": value}, bounds or BOUNDS)


@given(graphs(), st.integers(0, 99))
def test_samples_evaluate(g: Graph, seed: int) -> None:
    tensors = sample(g, seed)
    assert {i.key for i in g.inputs} <= set(tensors)
    for op in g.inputs:
        assert tensors[op.key].dtype == op.dtype.numpy
    for name, array in g.evaluate(tensors).items():
        assert array.dtype == g.outputs[name].dtype.numpy and array.ndim == g.outputs[name].type.rank
    again = sample(g, seed)
    assert all(np.array_equal(tensors[k], again[k], equal_nan=True) for k in tensors)


def test_ids_are_rows_of_their_table() -> None:
    ids = Input("ids", i32["B", "S"])
    g = graph(Embedding(Weight("w", f32[3, 4]), ids), ids)
    found = {int(n) for seed in SEEDS for n in sample(g, seed)["ids"].ravel()}
    assert found == {0, 1, 2}


def test_positions_stay_within_a_table() -> None:
    past = Input("past", i32["B",])
    positions = Add(Reshape(past, (B, 1)), Iota(S))
    g = graph(Gather(Weight("w", f32[9, 4]), positions), past, x := Input("x", f32["S",]))
    for seed in SEEDS:
        tensors = sample(g, seed)
        assert tensors["past"].min() >= 0 and tensors["past"].max() + len(tensors[x.key]) <= 9


def test_numbers_before_an_offset() -> None:
    lengths, x = Input("n", i32["B",]), Input("x", f32["B", "S", 4])
    last = Reshape(Sub(lengths, scalar(1, i32)), (B, 1))
    g = graph(Gather(x, last, axis=1, batch=1), lengths, x)
    for seed in SEEDS:
        tensors = sample(g, seed)
        assert tensors["n"].min() >= 1 and tensors["n"].max() <= tensors["x"].shape[1]


def test_caches_hold_what_is_written() -> None:
    cache, new, start = Input("c", f32["B", 1, "M", 4]), Input("n", f32["B", 1, "S", 4]), Input("s", i32["B",])
    g = graph(KVCacheUpdate(cache, new, start), cache, new, start, bounds={**BOUNDS, "S": (2, 64)})
    rooms: set[int] = set()
    for seed in SEEDS:
        t = sample(g, seed)
        assert t["s"].min() >= 0 and t["s"].max() + t["n"].shape[2] <= t["c"].shape[2]
        rooms.add(t["c"].shape[2] - t["n"].shape[2])
    assert len(rooms) > 2


def test_lengths_hold_the_new_tokens() -> None:
    q, k, lengths = Input("q", f32["B", 1, "S", 4]), Input("k", f32["B", 1, "M", 4]), Input("n", i32["B",])
    g = graph(Attention(q, k, k, lengths), q, k, lengths)
    for seed in SEEDS:
        t = sample(g, seed)
        assert t["q"].shape[2] <= t["n"].min() and t["n"].max() <= t["k"].shape[2]
        assert np.isfinite(g.evaluate(t)["y"]).all()


def test_a_model_signature_by_name() -> None:
    ids = Input("input_ids", i32["B", "S"])
    lengths, past = Input("input_lengths", i32["B",]), Input("past_lengths", i32["B",])
    cache = Input("layers.0.key_cache", f32["B", 1, "M", 4])
    start = Add(past, lengths)
    y = Add(Cast(ids, f32), Reshape(Cast(start, f32), (B, 1)))
    g = Graph("g", (ids, lengths, past, cache), {"y": y, "layers.0.key_cache": Neg(cache)}, {**BOUNDS, "M": (64, 128)})
    for seed in SEEDS:
        t = sample(g, seed)
        tokens = t["input_ids"].shape[1]
        assert t["input_lengths"].min() >= 1 and t["input_lengths"].max() <= tokens
        assert t["past_lengths"].min() >= 0 and t["past_lengths"].max() + tokens <= t["layers.0.key_cache"].shape[2]


def test_weights() -> None:
    x = Input("x", f32["B", 256])
    g = graph(Linear(x, Weight("w", f32[512, 256])), x)
    assert 0.9 < sample(g)["w"].std() * 16 < 1.1
    assert 0.9 < g.evaluate(sample(g))["y"].std() < 1.1, "scaled so that activations keep their size"
    own = {"w": np.ones((512, 256), np.float32)}
    assert sample(g, weights=own)["w"] is own["w"]
    narrow = graph(Cast(Weight("w", i4[8]), f16))
    assert set(sample(narrow)["w"].astype(int)) <= set(range(-8, 8))
    assert sample(graph(Neg(Weight("w", bf16[4]))))["w"].dtype == bf16.numpy


def test_sizes_may_be_given() -> None:
    x = Input("x", f32["B", "S"])
    assert sample(graph(Neg(x), x), sizes={"S": 50})["x"].shape[1] == 50


def test_no_sizes_fit() -> None:
    cache, new, start = Input("c", f32["B", 1, "M", 4]), Input("n", f32["B", 1, "S", 4]), Input("s", i32["B",])
    g = graph(KVCacheUpdate(cache, new, start), cache, new, start, bounds={**BOUNDS, "M": (1, 3), "S": (4, 8)})
    with pytest.raises(IRError) as caught:
        sample(g)
    assert str(caught.value) == (
        "error: @g has no small sizes within its bounds at which no axis is empty and caches have room"
    )


def test_no_number_fits() -> None:
    ids, table = Input("ids", i32["B",]), Weight("w", f32[3, 4])
    with pytest.raises(IRError) as caught:
        sample(graph(Add(Gather(table, ids), Gather(table, Sub(ids, scalar(9, i32)))), ids))
    assert str(caught.value) == "error: %ids must be at least 9 and at most 2, so there is no sample of it"
