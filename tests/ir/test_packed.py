"""Packed attention and cache updates are those of each sequence by itself, as the padded ops have them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtc.ir import Array, Dim, Graph, IRError, Op, TensorType, Value, f16, f32, i32, parse
from trtc.ir.ops import Attention, Input, KVCacheUpdate, PackedAttention, PackedKVCacheUpdate

B1 = Dim.named("B") + 1
Q, K, V = Input("q", f32["T", 4, 8]), Input("k", f32["B", 2, 9, 8]), Input("v", f32["B", 2, 9, 6])
STARTS, LENGTHS, SLOPES = Input("starts", TensorType(i32, (B1,))), Input("lengths", i32["B"]), Input("slopes", f32[4])
CACHE, NEW, START = Input("cache", f32["B", 2, 9, 8]), Input("new", f32["T", 2, 8]), Input("start", i32["B"])
BOUNDS = {"B": (1, 4), "T": (1, 16)}


def graph(op: Op, *inputs: Input) -> Graph:
    return Graph("g", inputs, {"y": op}, BOUNDS)


def alone(op: Op, **arrays: Array) -> Array:
    """A padded op on one sequence."""
    inputs = tuple(v for v in op.operands.values() if isinstance(v, Input))
    return Graph("g", inputs, {"y": op}, {}).evaluate(arrays)["y"]


SEQUENCES = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 5)), min_size=1, max_size=4)
"""New tokens of each sequence, and how many it has already."""


def starts_of(counts: list[int]) -> Array:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)


@given(SEQUENCES, st.sampled_from([{}, {"window": 2}, {"softcap": 1.5}, {"scale": 0.3}]), st.booleans())
def test_attention_is_that_of_each_sequence(
    sequences: list[tuple[int, int]], more: dict[str, Any], rises: bool
) -> None:
    random = np.random.default_rng(len(sequences))
    counts = [n for n, _ in sequences]
    q = random.standard_normal((sum(counts), 4, 8)).astype(np.float32)
    k, v = (random.standard_normal((len(counts), 2, 9, n)).astype(np.float32) for n in (8, 6))
    slopes = random.random(4).astype(np.float32)
    starts, lengths = starts_of(counts), np.array([sum(s) for s in sequences], np.int32)
    op = PackedAttention(Q, K, V, STARTS, LENGTHS, SLOPES if rises else None, **more)
    feeds = {"q": q, "k": k, "v": v, "starts": starts, "lengths": lengths, "slopes": slopes}
    got = graph(op, Q, K, V, STARTS, LENGTHS, SLOPES).evaluate(feeds)["y"]
    assert got.shape == (sum(counts), 4, 6)
    for b, (n, past) in enumerate(sequences):
        ends = Input("slopes", f32[4]) if rises else None
        one = Attention(
            Input("q", f32[1, 4, n, 8]), Input("k", f32[1, 2, n + past, 8]), Input("v", f32[1, 2, n + past, 6]), None,
            None, ends, **more,
        )   # fmt: skip
        held = {"k": k[b : b + 1, :, : n + past], "v": v[b : b + 1, :, : n + past], "slopes": slopes}
        want = alone(one, q=q[starts[b] : starts[b + 1]].swapaxes(0, 1)[None], **held)
        np.testing.assert_allclose(got[starts[b] : starts[b + 1]], want[0].swapaxes(0, 1), rtol=1e-5, atol=1e-5)


@given(SEQUENCES)
def test_updates_are_those_of_each_sequence(sequences: list[tuple[int, int]]) -> None:
    random = np.random.default_rng(len(sequences))
    counts = [n for n, _ in sequences]
    cache = random.standard_normal((len(counts), 2, 9, 8)).astype(np.float32)
    new = random.standard_normal((sum(counts), 2, 8)).astype(np.float32)
    starts, start = starts_of(counts), np.array([p for _, p in sequences], np.int32)
    op = PackedKVCacheUpdate(CACHE, NEW, START, STARTS)
    feeds = {"cache": cache, "new": new, "start": start, "starts": starts}
    got = graph(op, CACHE, NEW, START, STARTS).evaluate(feeds)["y"]
    for b, n in enumerate(counts):
        one = KVCacheUpdate(Input("cache", f32[1, 2, 9, 8]), Input("new", f32[1, 2, n, 8]), Input("start", i32[1]))
        rows = new[starts[b] : starts[b + 1]].swapaxes(0, 1)[None]
        np.testing.assert_array_equal(got[b], alone(one, cache=cache[b : b + 1], new=rows, start=start[b : b + 1])[0])


WRONG: list[tuple[type[Op], tuple[Value, ...], str]] = [
    (PackedAttention, (K, K, V, STARTS, LENGTHS), "q has rank 4, but must have rank 3"),
    (PackedAttention, (Q, K, V, LENGTHS, LENGTHS), "starts is i32[B], but must be i32[B + 1]"),
    (PackedKVCacheUpdate, (CACHE, K, START, STARTS), "new is f32[B, 2, 9, 8], but the cache is f32[B, 2, 9, 8]"),
    (PackedKVCacheUpdate, (NEW, NEW, START, STARTS), "cache has rank 3, but must have rank 4"),
    (PackedKVCacheUpdate, (CACHE, NEW, STARTS, STARTS), "start is i32[B + 1], but must be i32[B]"),
    (PackedKVCacheUpdate, (CACHE, NEW, START, START), "starts is i32[B], but must be i32[B + 1]"),
]


@pytest.mark.parametrize(("kind", "operands", "message"), WRONG)
def test_operands_of_other_shapes_are_refused(kind: type[Op], operands: tuple[Value, ...], message: str) -> None:
    with pytest.raises(IRError) as error:
        kind(*operands)
    assert str(error.value).splitlines()[0] == f"error: {kind.name}: {message}"


def test_heads_that_do_not_match_are_refused() -> None:
    with pytest.raises(IRError, match="q has head size 8, but k has 4"):
        PackedAttention(Q, Input("k", f32["B", 2, 9, 4]), V, STARTS, LENGTHS)
    with pytest.raises(IRError):
        PackedAttention(Q, Input("k", f16["B", 2, 9, 8]), V, STARTS, LENGTHS)


def test_text_round_trips() -> None:
    made = graph(PackedAttention(Q, K, V, STARTS, LENGTHS, scale=0.5, window=3), Q, K, V, STARTS, LENGTHS)
    assert parse(str(made)) == made and "starts: i32[B + 1]" in str(made)
