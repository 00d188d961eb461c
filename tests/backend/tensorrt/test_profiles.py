"""Optimisation profiles, from the bounds of sizes."""

from __future__ import annotations

import pytest

from trtc.backend.tensorrt.bindings import logger, rtx
from trtc.backend.tensorrt.profiles import Range, add_profiles, profiles, shapes
from trtc.ir import Graph, f16, i32
from trtc.ir.errors import IRError
from trtc.ir.ops import Add, Input


def test_prefill_and_decode_are_apart() -> None:
    assert profiles({"B": (1, 8), "S": (1, 64)}) == [
        {"B": (1, 4, 8), "S": (1, 32, 64)},
        {"B": (1, 4, 8), "S": (1, 1, 1)},
    ]


def test_one_profile_where_there_is_nothing_to_tell_apart() -> None:
    assert profiles({}) == []
    assert profiles({"B": (2, 2)}) == [{"B": (2, 2, 2)}]
    assert profiles({"B": (1, 2), "S": (1, 1)}) == [{"B": (1, 1, 2), "S": (1, 1, 1)}]
    assert profiles({"S": (4, 8)}) == [{"S": (4, 6, 8)}]


def covers(found: list[dict[str, Range]], batch: int, tokens: int) -> bool:
    return any(p["B"][0] <= batch <= p["B"][2] and p["S"][0] <= tokens <= p["S"][2] for p in found)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("limit", [0, 8, 20, 64, 100, 512])
@pytest.mark.parametrize("likely", [0, 1, 8])
def test_every_profile_keeps_to_the_tokens_of_a_batch(several: bool, limit: int, likely: int) -> None:
    found = profiles({"B": (1, 8), "S": (1, 64)}, max_num_tokens=limit, opt_num_tokens=likely, several=several)
    assert found[-1]["B"][2] == 8 and found[-1]["S"] == (1, 1, 1)   # decode, of the whole batch
    for p in found:
        assert all(least <= likely <= most for least, likely, most in p.values())
        assert p["B"][2] * p["S"][2] <= (limit or 512)
    longest = min(64, limit or 64)
    assert covers(found, 1, longest) and not covers(found, 1, longest + 1)
    for tokens in range(1, longest + 1):   # a prompt of any length runs whole, alone
        assert covers(found, 1, tokens)


def test_tokens_of_a_batch_are_shared_by_few_long_prompts_or_many_short_ones() -> None:
    assert [(p["B"][2], p["S"][2]) for p in profiles({"B": (1, 64), "S": (1, 1024)}, max_num_tokens=8192)] == [
        (8, 1024), (64, 128), (64, 1),
    ]   # fmt: skip


def test_several_profiles_divide_the_new_tokens() -> None:
    spans = [(p["S"][0], p["S"][2]) for p in profiles({"B": (1, 8), "S": (1, 1024)}, several=True)]
    assert spans == [(257, 1024), (65, 256), (17, 64), (1, 16), (1, 1)]


def test_the_likely_tokens_are_the_optimum() -> None:
    prefill, decode = profiles({"B": (1, 8), "S": (1, 64)}, opt_num_tokens=128)
    assert (prefill["B"][1] * prefill["S"][1], decode["B"][1]) == (128, 8)


def test_limits_that_do_not_fit_are_refused() -> None:
    bounds = {"B": (1, 8), "S": (1, 64)}
    with pytest.raises(IRError) as caught:
        profiles(bounds, max_num_tokens=7)
    assert str(caught.value) == "error: max_num_tokens is 7, but must be at least max_batch_size, 8"
    with pytest.raises(IRError) as caught:
        profiles(bounds, max_num_tokens=100, opt_num_tokens=101)
    assert str(caught.value) == "error: opt_num_tokens is 101, but must not exceed 100, the most tokens of a batch"


def test_shapes_of_inputs_follow_the_sizes() -> None:
    ids, cache, fixed = Input("ids", i32["B", "S"]), Input("cache", f16["B", 2, 32, 4]), Input("fixed", i32[3])
    graph = Graph("g", (ids, cache, fixed), {"y": Add(ids, ids)}, {"B": (1, 8), "S": (1, 64)})
    assert shapes(graph, {"B": (1, 4, 8), "S": (1, 32, 64)}) == {
        "ids": ((1, 1), (4, 32), (8, 64)),
        "cache": ((1, 2, 32, 4), (4, 2, 32, 4), (8, 2, 32, 4)),
    }


def test_the_config_gets_both_profiles() -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    trt = rtx()
    builder = trt.Builder(logger(trt))
    config = builder.create_builder_config()
    ids = Input("ids", i32["B", "S"])
    graph = Graph("g", (ids,), {"y": Add(ids, ids)}, {"B": (1, 8), "S": (1, 64)})
    add_profiles(builder, config, graph)
    assert config.num_optimization_profiles == 2
