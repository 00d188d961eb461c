"""TensorRT-RTX really builds plans, tells how far it is, and leaves nothing behind where it fails."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorrt_rtx_bindings")

from tensorrt_evaluator import build_plan, kernels
from tensorrt_models import BASE, LOWER, model

from trtc.backend.tensorrt import bindings
from trtc.backend.tensorrt.build import stored_bytes
from trtc.backend.tensorrt.lower import LOWERINGS
from trtc.backend.tensorrt.target import tensorrt_rtx
from trtc.errors import MissingPackage, TrtcError
from trtc.frontend.config import RopeConfig
from trtc.ir import DType, Graph, at, bf16, f16, f32, i32
from trtc.ir.ops import Add, Attention, Constant, Input, KVCacheUpdate, Neg, ReLU, Weight
from trtc.passes.rewrite import apply

BOUNDS = {"B": (1, 4), "S": (1, 8)}


@pytest.mark.parametrize("dtype", [f16, bf16], ids=str)
@pytest.mark.parametrize("head_dim", [16, 64, 128])
def test_a_plan_holds_a_fused_attention_kernel(dtype: DType, head_dim: int, tmp_path: Path) -> None:
    made = model(replace(BASE, head_dim=head_dim, rope=RopeConfig(10000.0, head_dim)), dtype)
    plan, said = build_plan(made.lowered, made.tensors, tmp_path / "engine")
    assert any("_mha_" in name for name in kernels(plan))
    cache = {"dtype": str(dtype), "shape": ["B", 2, 32, head_dim]}
    assert said["inputs"][:4] == [
        {"name": "input_ids", "dtype": "i32", "shape": ["B", "S"]},
        {"name": "input_lengths", "dtype": "i32", "shape": ["B"]},
        {"name": "past_lengths", "dtype": "i32", "shape": ["B"]},
        {"name": "layers.0.key_cache", **cache},
    ]
    assert said["outputs"][:2] == [
        {"name": "logits", "dtype": "f32", "shape": ["B", 50]},
        {"name": "layers.0.key_cache.next", **cache, "alias": "layers.0.key_cache"},
    ]


def test_a_window_is_a_mask_of_a_fused_kernel(tmp_path: Path) -> None:
    q, k, v = Input("q", f16["B", 4, "S", 64]), Input("k", f16["B", 2, 32, 64]), Input("v", f16["B", 2, 32, 64])
    lengths = Input("lengths", i32["B"])
    graph = Graph("g", (q, k, v, lengths), {"y": Attention(q, k, v, lengths, window=4)}, BOUNDS)
    plan, _ = build_plan(apply(graph, tensorrt_rtx("").plugins[0], "test"), {}, tmp_path / "engine")
    assert any("_mha_" in name for name in kernels(plan))


def test_f32_and_unfused_graphs_build(tmp_path: Path) -> None:
    for name, dtype, pipeline in (("f32", f32, LOWER), ("plain", f16, LOWER.replace("fuse,", ""))):
        made = model(BASE, dtype, pipeline)
        assert len(build_plan(made.lowered, made.tensors, tmp_path / name)[0]) > 100_000


def test_weights_are_in_the_plan_and_released(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).integers(0, 1 << 15, (64, 48)).astype(np.uint16).view(bf16.numpy)
    x = Input("x", bf16["B", 64, 48])
    graph = Graph("g", (x,), {"y": Add(x, Weight("w", bf16[64, 48]))}, {"B": (1, 4)})
    released: list[str] = []
    plan, _ = build_plan(graph, {"w": weight}, tmp_path / "engine", release=released.append)
    assert weight.tobytes() in plan
    assert stored_bytes(graph) == weight.nbytes and released == ["w"]


def test_outputs_that_are_inputs_or_constants_or_the_same_are_copied(tmp_path: Path) -> None:
    x, two = Input("x", f32["B", 4]), Constant((2.0,), f32[3])
    y = Neg(x)
    _, said = build_plan(Graph("g", (x,), {"a": x, "b": y, "c": y, "d": two}, BOUNDS), {}, tmp_path / "engine")
    assert [output["name"] for output in said["outputs"]] == ["a", "b", "c", "d"]


def test_progress_tells_bytes_of_weights_then_how_far_the_build_is(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    made = model(BASE, f16)
    out = tmp_path / "engine"
    build_plan(made.lowered, made.tensors, out, lambda phase, done, total: told.append((phase, done, total)))
    phases = [phase for phase, _, _ in told]
    assert phases == sorted(phases, key=["weights", "build"].index)
    last = dict(zip(phases, told, strict=True))
    assert last["weights"][1] == last["weights"][2] == stored_bytes(made.lowered)
    assert last["build"] == ("build", 1000, 1000)
    assert told == sorted(told, key=lambda step: (phases.index(step[0]), step[1]))   # it never goes back


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def trouble() -> None:
    raise ValueError("of the progress bar")


@pytest.mark.parametrize(("act", "kind"), [(ctrl_c, KeyboardInterrupt), (trouble, ValueError)])
def test_an_interrupted_build_stops_and_leaves_nothing(
    act: Callable[[], None], kind: type[BaseException], tmp_path: Path
) -> None:
    told: list[int] = []
    handler = signal.getsignal(signal.SIGINT)

    def progress(phase: str, done: int, total: int) -> None:
        if phase == "build":
            told.append(done)
            if len(told) == 10:
                act()

    made = model(BASE, f16)
    with pytest.raises(kind):
        build_plan(made.lowered, made.tensors, tmp_path / "engine", progress)
    assert list(tmp_path.iterdir()) == []
    assert told[-1] < 900   # it is 1000 where the build ends
    assert signal.getsignal(signal.SIGINT) is handler


def test_what_the_disk_says_while_the_plan_leaves_is_not_swallowed(tmp_path: Path, few_bytes: None) -> None:
    made = model(BASE, f16)
    with pytest.raises(OSError, match="File too large"):
        build_plan(made.lowered, made.tensors, tmp_path / "engine")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def few_bytes() -> Generator[None, None, None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)
    bindings.module.cache_clear()
    with pytest.raises(MissingPackage) as caught:
        build_plan(Graph("g", (), {}, {}), {}, tmp_path / "engine")
    assert str(caught.value) == (
        "error: tensorrt_rtx_bindings is needed to build for target tensorrt-rtx, but is not installed\n"
        "  = help: pip install 'trtc[rtx]'"
    )


def failing(graph: Graph, folder: Path) -> str:
    with pytest.raises(TrtcError) as caught:
        build_plan(graph, {}, folder / "engine")
    assert list(folder.iterdir()) == []
    return str(caught.value)


def test_a_rejected_setting_fails_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(op: Attention, emit: Any) -> Any:
        trt, q, mask = emit.trt, emit[op.q], emit.constant(np.ones((1, 1, 1, 1), np.bool_))
        kinds = (trt.AttentionNormalizationOp.SOFTMAX, trt.CausalMaskKind.LOWER_RIGHT)
        return emit.add("attention_v2", q, q, q, *kinds, mask=mask)

    monkeypatch.setitem(LOWERINGS, Attention, wrong)
    q = Input("q", f16["B", 2, "S", 16])
    with at("layers.3.attention"):
        graph = Graph("g", (q,), {"y": Attention(q, q, q)}, BOUNDS)
    assert failing(graph, tmp_path) == (
        "error: TensorRT-RTX refuses attention at layers.3.attention: "
        "Option mask cannot be used together with CausalMaskKind other than kNONE\n"
        "  = q : f16[B, 2, S, 16]\n  = k : f16[B, 2, S, 16]\n  = v : f16[B, 2, S, 16]"
    )


def test_a_layer_of_wrong_types_fails_at_its_op(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = "UnaryOperation"
    monkeypatch.setitem(LOWERINGS, Neg, lambda op, emit: emit.add("unary", emit[op.x], getattr(emit.trt, kinds).NOT))
    x = Input("x", f32["B", 4])
    with at("layers.0.mlp"):
        graph = Graph("g", (x,), {"y": ReLU(Neg(x))}, BOUNDS)
    assert failing(graph, tmp_path) == (
        "error: TensorRT-RTX refuses neg at layers.0.mlp: "
        "layers.0.mlp/neg: input has type Float but must have type Bool\n  = x : f32[B, 4]"
    )


def test_what_only_the_build_finds_is_traced_to_its_op(tmp_path: Path) -> None:
    cache, new, start = Input("cache", f16["B", 2, 8, 4]), Input("new", f16["B", 2, "S", 4]), Input("start", i32["B"])
    with at("layers.1.attention"):
        updated = KVCacheUpdate(cache, new, start)
    assert failing(Graph("g", (cache, new, start), {"y": Neg(updated)}, BOUNDS), tmp_path) == (
        "error: TensorRT-RTX refuses kv_cache_update at layers.1.attention: "
        "layers.1.attention/kv_cache_update: The output tensor must be a network output\n"
        "  = cache : f16[B, 2, 8, 4]\n  = new : f16[B, 2, S, 4]\n  = start : i32[B]"
    )


def test_what_no_op_is_to_blame_for_is_the_networks(tmp_path: Path) -> None:
    cache, new, start = Input("cache", f16["B", 2, 8, 4]), Input("new", f16["B", 2, "S", 4]), Input("start", i32["B"])
    twice = {"cache": KVCacheUpdate(cache, new, start), "y": KVCacheUpdate(cache, Neg(new), start)}
    assert failing(Graph("g", (cache, new, start), twice, BOUNDS), tmp_path) == (
        "error: TensorRT-RTX refuses the network: Input index already mapped to an output_index"
    )


def test_a_lowering_of_another_type_is_a_bug_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOWERINGS, Neg, lambda op, emit: emit.add("cast", emit[op.x], emit.trt.float16))
    x = Input("x", f32["B", 4])
    with pytest.raises(AssertionError, match=r"^neg at \? is f32\[B, 4\], but was lowered to "):
        build_plan(Graph("g", (x,), {"y": Neg(x)}, BOUNDS), {}, tmp_path / "engine")


def test_plans_of_one_graph_have_one_size(tmp_path: Path) -> None:
    made = model(BASE, f16)
    assert len({len(build_plan(made.lowered, made.tensors, tmp_path / name)[0]) for name in ("a", "b")}) == 1
