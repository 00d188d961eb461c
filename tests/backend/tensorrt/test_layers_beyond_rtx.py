"""Layers that TensorRT-RTX does not build (packed tokens, experts) or does not tell of (collectives), on stand-ins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import KNOWN
from tensorrt_evaluator import build_plan, emitted, network_of
from tensorrt_families import LIMITS, calls, checkpoint, meant
from tensorrt_standin import standin

from trtc.backend.tensorrt.profiles import add_profiles
from trtc.compiler import plan, read_model
from trtc.ir import Array, DType, Graph, IRError, bf16, f16, f32, i32
from trtc.ir.ops import AllGather, AllReduce, Collective, Experts, Input, ReduceScatter
from trtc.ir.ranks import together
from trtc.ir.target import target

RANDOM = np.random.default_rng(0)
EXCHANGES: dict[str, Callable[[Input], Collective]] = {
    "all_reduce": lambda x: AllReduce(x, (0, 1)),
    "all_gather": lambda x: AllGather(x, (0, 1)),
    "all_gather-1": lambda x: AllGather(x, (0, 1), 1),
    "reduce_scatter": lambda x: ReduceScatter(x, (0, 1)),
    "reduce_scatter-1": lambda x: ReduceScatter(x, (0, 1), 1),
}


def exchange(name: str, dtype: DType = f32) -> Graph:
    x = Input("x", dtype[4, 6])
    return Graph("g", (x,), {"y": EXCHANGES[name](x)}, {})


def experts(dtype: DType) -> Graph:
    x, chosen, shares = Input("x", dtype["N", 8]), Input("chosen", i32["N", 2]), Input("shares", dtype["N", 2])
    fc, gate, proj = Input("fc", dtype[4, 6, 8]), Input("gate", dtype[4, 6, 8]), Input("proj", dtype[4, 8, 6])
    y = Experts(x, chosen, shares, fc, gate, proj)
    return Graph("g", (x, chosen, shares, fc, gate, proj), {"y": y}, {"N": (1, 8)})


@pytest.mark.parametrize("version", ["10.16", "11.4"])
@pytest.mark.parametrize("name", EXCHANGES)
def test_ranks_exchange_what_the_op_says(name: str, version: str) -> None:
    graph = exchange(name)
    assert all(target(f"tensorrt:{version}").refuses(op) is None for op in graph.ops if isinstance(op, Collective))
    feeds = [{"x": RANDOM.standard_normal((4, 6)).astype(np.float32)} for _ in range(2)]
    networks = [network_of(graph, {}, trt=standin(version)) for _ in feeds]

    def run(evaluate: Callable[..., dict[str, Array]], given: dict[str, Array]) -> Callable[[], Array]:
        return lambda: evaluate(given)["y"]

    got = together([run(n, f) for n, f in zip(networks, feeds, strict=True)])
    want = together([run(graph.evaluate, f) for f in feeds])
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", [f32, f16, bf16], ids=str)
def test_rtx_builds_collectives(dtype: DType, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    for name in EXCHANGES:
        assert build_plan(exchange(name, dtype), {}, tmp_path / name)[0]


@pytest.mark.parametrize("version", ["10.16", "11.4"])
def test_experts_are_one_layer(version: str) -> None:
    graph = experts(f32)
    assert target(f"tensorrt:{version}/sm100").refuses(graph.outputs["y"]) is None   # type: ignore[arg-type]
    feeds: dict[str, Array] = {
        i.key: RANDOM.standard_normal([5 if n == "N" else n for n in map(size, i.shape)]).astype(np.float32)
        for i in graph.inputs
    }
    feeds["chosen"] = np.array([[0, 1], [3, 2], [2, 0], [1, 3], [3, 0]], np.int32)
    feeds["shares"] = abs(feeds["shares"])
    network = network_of(graph, {}, trt=standin(version))
    assert "MOE" in network.kinds()
    np.testing.assert_allclose(network(feeds)["y"], graph.evaluate(feeds)["y"], rtol=1e-5, atol=1e-5)


def size(of: Any) -> Any:
    return of if isinstance(of, int) else str(of)


def test_experts_of_a_model_are_layers_where_the_gpu_has_them() -> None:
    case = KNOWN["mixtral"]
    model = read_model(checkpoint(case.name), dtype="float16", **LIMITS)
    graphs = {sm: plan(model, target=f"tensorrt:11.4/{sm}").graph for sm in ("sm90", "sm100")}
    kinds = {sm: network_of(g, model.checkpoint.source, trt=standin("11.4")).kinds() for sm, g in graphs.items()}
    assert "MOE" in kinds["sm100"] and "MOE" not in kinds["sm90"]


PACKED = ["mha", "mixtral", "qwen2-moe", "gpt2", "deepseek-v2-lite", "mqa-bias-head20"]
"""Of heads of one size, of two (latent attention), and of 20, which are padded."""


@pytest.mark.parametrize("version", ["11.0", "11.4"])
@pytest.mark.parametrize("name", PACKED)
def test_packed_models_give_the_logits_of_padded_ones(name: str, version: str) -> None:
    case, dtype = KNOWN[name], "float16"
    model = read_model(checkpoint(name), dtype=dtype, **LIMITS)
    graph = plan(model, target=f"tensorrt:{version}", passes="fuse,pack-inputs").graph
    network = network_of(graph, model.checkpoint.source, rounds=False, trt=standin(version))
    known = {"B": len(case.lengths)}
    caches = {
        i.key: np.zeros([s if isinstance(s, int) else known[str(s)] for s in i.shape], np.float32)
        for i in graph.inputs
        if i.key.endswith("_cache")
    }
    rows: list[Array] = []
    for ids, lengths, past in calls(case):
        row = np.concatenate([r[:n] for r, n in zip(ids, lengths, strict=True)])
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        got = network({"input_ids": row, "query_starts": starts, "past_lengths": past, **caches})
        caches = {key: got[f"{key}.next"] for key in caches}
        rows.append(got["logits"])
    np.testing.assert_allclose(np.stack(rows, 1), meant(name, dtype), rtol=0, atol=2e-5)   # as tensorrt_families has it


@pytest.mark.parametrize(
    ("name", "target_", "reason"),
    [
        ("mha", "tensorrt-rtx:1.7", "TensorRT-RTX 1.7 has no attention over packed tokens: its builder knows"),
        ("mha", "tensorrt:10.16", "TensorRT 10.16 has no attention over packed tokens, which TensorRT has"),
        ("bloom", "tensorrt:11.4", "its scores have a softcap, a window or slopes"),
    ],
)
def test_packed_tokens_are_refused_where_there_is_no_kernel(name: str, target_: str, reason: str) -> None:
    model = read_model(checkpoint(name), dtype="float16", **LIMITS)
    with pytest.raises(IRError) as error:
        plan(model, target=target_, passes="fuse,pack-inputs")
    first = str(error.value).splitlines()[0]
    assert first.startswith(f"error: {target_}") and reason in first
    assert " cannot express packed_" in first and " at transformer.layers.0.attention: " in first


def valid(graph: Graph, tensors: Any) -> bool:
    """Whether TensorRT-RTX, which cannot build it, says that a network is legal."""
    emit, builder = emitted(graph, tensors)
    config = builder.create_builder_config()
    add_profiles(builder, config, graph)
    said = builder.is_network_supported(emit.network, config)
    emit.diagnostics.check()
    return said


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", PACKED)
def test_networks_of_packed_models_are_legal(name: str, dtype: str) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    model = read_model(checkpoint(name), dtype=dtype, **LIMITS)
    graph = plan(model, target="tensorrt:11.4", passes="fuse,pack-inputs").graph
    assert valid(graph, model.checkpoint.source)


@pytest.mark.parametrize("dtype", [f16, bf16], ids=str)
def test_networks_of_experts_are_legal(dtype: DType) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    assert valid(experts(dtype), {})
