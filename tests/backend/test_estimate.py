"""Estimates of memory, beside sums worked by hand and what the TensorRT-RTX builder reports of its plans."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest

from trtc.backend.bundle import bundle
from trtc.backend.estimate import PROCESS, SCRATCH, SMALL_PROCESS, Estimate, estimate
from trtc.backend.targets import target
from trtc.backend.tensorrt.build import build, stored_bytes
from trtc.backend.tensorrt.options import Options
from trtc.backend.tensorrt.target import tensorrt_rtx
from trtc.frontend.config import RopeConfig
from trtc.frontend.decoder import Limits
from trtc.ir import DType, Graph, f16, f32
from trtc.ir.ops import Add, Input, Linear, Neg, Weight


def small() -> Graph:
    """x @ w + x, negated twice: two intermediate tensors of B * S * 64 elements at once."""
    x = Input("x", f32["B", "S", 64])
    y = Add(Linear(x, Weight("w", f32[64, 64])), Linear(x, Weight("v", f32[64, 64])))
    return Graph("g", (x,), {"y": Neg(y)}, {"B": (1, 8), "S": (1, 16)})


WEIGHTS, CACHE, ROW = 2 * 64 * 64 * 4, 1000, 64 * 4


@pytest.mark.parametrize(
    ("name", "options", "copies", "tokens"),
    [
        ("tensorrt:10.9", Options(), 2, 8 * 16), ("tensorrt:11.0", Options(), 1, 8 * 16),
        ("tensorrt-rtx:1.7", Options(weightless=True), 0, 8 * 16), ("tensorrt:11.0", Options(max_num_tokens=32), 1, 32),
    ],
)   # fmt: skip
def test_a_plan_needs_its_weights_once_or_twice_and_three_tensors(
    name: str, options: Options, copies: int, tokens: int
) -> None:
    got = estimate(small(), target(name), options, weights=WEIGHTS, cache=CACHE, threads=2)
    assert got == Estimate(WEIGHTS, CACHE, SCRATCH + 3 * tokens * ROW, PROCESS + copies * WEIGHTS)
    assert got.run == WEIGHTS + CACHE + SCRATCH + 3 * tokens * ROW


def test_onnx_needs_the_weights_that_are_under_way() -> None:
    got = estimate(small(), target("onnx"), None, weights=WEIGHTS, cache=CACHE, threads=1)
    assert got == Estimate(WEIGHTS, CACHE, 3 * 8 * 16 * ROW, SMALL_PROCESS + WEIGHTS // 2)


@pytest.mark.parametrize(("dtype", "batch", "tokens"), [(f16, 4, 256), (f16, 8, 256), (f32, 4, 256)])
def test_the_builder_reports_what_was_estimated(
    dtype: DType,
    batch: int,
    tokens: int,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Weights exactly, but for alignment; activations within half: the builder fuses ops, and pads its kernels."""
    pytest.importorskip("tensorrt_rtx_bindings")
    import tensorrt_models as tm

    monkeypatch.setattr(tm, "LIMITS", Limits(batch, tokens, 512))
    config = replace(
        tm.BASE, hidden_size=512, intermediate_size=1376, vocab_size=8000, num_attention_heads=8, num_key_value_heads=4,
        head_dim=64, rope=RopeConfig(10000.0, 64), max_position_embeddings=512,
    )   # fmt: skip
    made = tm.model(config, dtype, "specialize{size=M value=512},fuse,lower{target=tensorrt-rtx}")
    weights = stored_bytes(made.lowered)
    got = estimate(made.lowered, tensorrt_rtx(""), Options(), weights=weights, cache=0, threads=2)
    with caplog.at_level(logging.DEBUG, "trtc.tensorrt"), bundle(tmp_path / "engine", 0) as writer:
        build(made.lowered, made.tensors, writer, "rank0", target=tensorrt_rtx(""))
    said = {name: max(map(int, re.findall(rf"Total {name} Memory: (\d+) bytes", caplog.text))) for name in
            ("Weights", "Activation")}   # fmt: skip
    assert weights <= said["Weights"] <= weights + 4096
    assert 0.6 <= (said["Activation"] - SCRATCH) / (got.activations - SCRATCH) <= 1.5
