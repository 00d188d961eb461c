"""Collectives over several ranks: their meaning by NumPy over all of them, and a tensor-parallel block."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from trtc.ir import Array, Graph, IRError, Op, bf16, f32, i32, parse
from trtc.ir.ops import AllGather, AllReduce, Input, Linear, ReduceScatter, ReLU
from trtc.ir.ranks import together

RANDOM = np.random.default_rng(0)
GROUPS = ((0, 2), (3, 1))
PLACES = {rank: (group, place) for group in GROUPS for place, rank in enumerate(group)}
X = Input("x", f32[4, 6])


def graph(op: Op) -> Graph:
    return Graph("g", (X,), {"y": op}, {})


def run(op: Op, array: Array) -> Callable[[], Array]:
    return lambda: graph(op).evaluate({"x": array})["y"]


def everywhere(kind: Callable[..., Op], arrays: list[Array], **attributes: int) -> list[Array]:
    """The op on four ranks, in two groups."""
    return together([run(kind(X, PLACES[rank][0], **attributes), array) for rank, array in enumerate(arrays)])


def numbers() -> list[Array]:
    return [RANDOM.standard_normal((4, 6)).astype(np.float32) for _ in range(4)]


def test_all_reduce_gives_every_rank_of_a_group_the_sum() -> None:
    x = numbers()
    got = everywhere(AllReduce, x)
    for rank in range(4):
        np.testing.assert_array_equal(got[rank], sum(x[r] for r in PLACES[rank][0]))


@pytest.mark.parametrize("axis", [0, 1])
def test_all_gather_joins_in_the_order_of_the_group(axis: int) -> None:
    x = numbers()
    got = everywhere(AllGather, x, axis=axis)
    for rank in range(4):
        np.testing.assert_array_equal(got[rank], np.concatenate([x[r] for r in PLACES[rank][0]], axis))


@pytest.mark.parametrize("axis", [0, 1])
def test_reduce_scatter_and_then_all_gather_is_all_reduce(axis: int) -> None:
    x = numbers()
    scattered = everywhere(ReduceScatter, x, axis=axis)
    for rank in range(4):
        group, place = PLACES[rank]
        whole: Array = np.sum([x[r] for r in group], axis=0)
        np.testing.assert_array_equal(scattered[rank], np.split(whole, 2, axis)[place])


def test_narrow_floats_are_summed_in_f32() -> None:
    small = Input("x", bf16[1])
    parts = [np.array([v], ml_dtypes.bfloat16) for v in (256, 1, 1)]   # in bf16, 256 + 1 is 256

    def on(array: Array) -> Callable[[], Array]:
        return lambda: Graph("g", (small,), {"y": AllReduce(small, (0, 1, 2))}, {}).evaluate({"x": array})["y"]

    assert [float(y[0]) for y in together([on(p) for p in parts])] == [258, 258, 258]


def test_a_tensor_parallel_block_is_the_whole_block() -> None:
    x, up, down = (RANDOM.standard_normal(s).astype(np.float32) for s in ((4, 6), (8, 6), (6, 8)))
    a, b = Input("a", f32[4, 6]), Input("b", f32[6, 4])
    half = Graph("g", (X, a, b), {"y": AllReduce(Linear(ReLU(Linear(X, a)), b), (0, 1))}, {})

    def rank(r: int) -> Callable[[], Array]:
        part = slice(4 * r, 4 * r + 4)
        return lambda: half.evaluate({"x": x, "a": up[part], "b": down[:, part]})["y"]

    for got in together([rank(0), rank(1)]):
        np.testing.assert_allclose(got, np.maximum(x @ up.T, 0) @ down.T, rtol=1e-5, atol=1e-5)   # order of sums


def test_ranks_do_not_wait_for_ever() -> None:
    x = np.zeros((4, 6), np.float32)
    with pytest.raises(IRError, match="rank 0 waits for rank 1, which runs no such collective"):
        together([run(AllReduce(X, (0, 1)), x), run(ReLU(X), x)])
    with pytest.raises(IRError, match=r"rank 1 runs a collective of group \[0, 2\], but is not in it"):
        together([run(ReLU(X), x), run(AllReduce(X, (0, 2)), x)])
    with pytest.raises(IRError, match="ranks 0, 1 compute together, but one is evaluated"):
        graph(AllReduce(X, (0, 1))).evaluate({"x": x})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AllReduce(X, ()), "group is [], but must be ranks, each once"),
        (lambda: AllReduce(X, (1, 1)), "group is [1, 1], but must be ranks, each once"),
        (lambda: AllReduce(Input("x", i32[2]), (0, 1)), "x is i32, but must be a float"),
        (lambda: AllGather(X, (0, 1), 2), "x has no axis 2"),
        (lambda: ReduceScatter(X, (0, 1), 2), "x has no axis 2"),
        (lambda: ReduceScatter(X, (0, 1, 2)), "axis 0 of x has 4 elements, which 3 ranks cannot share"),
        (lambda: ReduceScatter(Input("x", f32["B"]), (0, 1)), "axis 0 of x has B elements, which 2 ranks cannot share"),
    ],
)
def test_what_cannot_be_exchanged_is_refused(make: Callable[[], Op], message: str) -> None:
    with pytest.raises(IRError) as error:
        make()
    assert str(error.value).splitlines()[0].partition(": ")[2].partition(": ")[2] == message


def test_text_round_trips() -> None:
    op = ReduceScatter(AllGather(AllReduce(X, (0, 1)), (0, 1), 1), (0, 1), 1)
    assert parse(str(graph(op))) == graph(op) and "{group = [0, 1], axis = 1}" in str(graph(op))
