"""A symbolic size, made a number."""

from __future__ import annotations

import numpy as np
import pytest

from trtc.ir import Graph, IRError, f32, i32, parse
from trtc.ir.ops import Add, Attention, Concat, Input, Iota, KVCacheUpdate, Reshape
from trtc.ir.types import Dim
from trtc.passes import Pipeline

B, S, M = Dim.named("B"), Dim.named("S"), Dim.named("M")
BOUNDS = {"B": (1, 4), "S": (1, 8), "M": (1, 64)}


def graph() -> Graph:
    cache, new, start = Input("cache", f32["B", 2, "M", 4]), Input("new", f32["B", 2, "S", 4]), Input("start", i32["B"])
    kept = KVCacheUpdate(cache, new, start)
    joined = Reshape(Concat((kept, new), 2), (B, 2, 2, 2 * M + 2 * S))
    slots = Add(Iota(M * 2), Reshape(Iota(2 * M), (M * 2,)))
    return Graph("g", (cache, new, start), {"cache": kept, "y": joined, "slots": slots}, BOUNDS)


def test_types_and_attributes_get_the_number() -> None:
    made = Pipeline.parse("specialize{size=M value=16}").run(graph())
    assert [str(i.type) for i in made.inputs] == ["f32[B, 2, 16, 4]", "f32[B, 2, S, 4]", "i32[B]"]
    assert {k: str(v.type) for k, v in made.outputs.items()} == {
        "cache": "f32[B, 2, 16, 4]", "y": "f32[B, 2, 2, 2*S + 32]", "slots": "i32[32]",
    }   # fmt: skip
    assert made.bounds == {"B": (1, 4), "S": (1, 8)}
    assert parse(str(made)) == made


def test_the_meaning_stays() -> None:
    before, random = graph(), np.random.default_rng(0)
    after = Pipeline.parse("specialize{size=M value=16}").run(before)
    feeds = {
        "cache": random.random((3, 2, 16, 4), np.float32),
        "new": random.random((3, 2, 5, 4), np.float32),
        "start": np.array([0, 4, 11], np.int32),
    }
    want, got = before.evaluate(feeds), after.evaluate(feeds)
    assert all((want[k] == got[k]).all() for k in want)


def test_absent_operands_stay_absent_and_the_second_time_does_nothing() -> None:
    q, k = Input("q", f32["B", 2, "S", 4]), Input("k", f32["B", 2, "M", 4])
    made = Pipeline.parse("specialize{size=M value=16}").run(Graph("g", (q, k), {"y": Attention(q, k, k)}, BOUNDS))
    attention = made.outputs["y"]
    assert isinstance(attention, Attention) and attention.lengths is None and attention.mask is None
    assert Pipeline.parse("specialize{size=M value=16}").run(made) is made


def test_a_value_out_of_bounds_is_refused() -> None:
    with pytest.raises(IRError) as caught:
        Pipeline.parse("specialize{size=M value=65}").run(graph())
    assert str(caught.value) == (
        "error: size M cannot be 65, but must be in 1..64\n  = in pass 1 of 1, `specialize{size=M value=65}`"
    )
