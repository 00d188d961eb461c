"""Optimisation profiles, from the bounds of sizes."""

from __future__ import annotations

import pytest

from trtc.backend.tensorrt.bindings import logger, rtx
from trtc.backend.tensorrt.profiles import add_profiles, profiles, shapes
from trtc.ir import Graph, f16, i32
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
    add_profiles(builder, config, Graph("g", (ids,), {"y": Add(ids, ids)}, {"B": (1, 8), "S": (1, 64)}))
    assert config.num_optimization_profiles == 2
