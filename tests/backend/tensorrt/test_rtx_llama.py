"""Checkpoints of LLaMA of every kind and of some other families become plans that compute what transformers does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorrt_rtx_bindings")

from family_cases import FAMILY_CASES
from family_cases_moe import FAMILY_CASES_MOE
from models import CASES, LIMITS, Case, Floats, calls, checkpoint, reference
from tensorrt_evaluator import build_plan, kernels, network_of

from trtc.compiler import plan, read_model
from trtc.ir.types import evaluate

TOLERANCE = 2e-5   # both sides compute in f32, on weights that are rounded alike; logits are about 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_prefill_and_decode_agree_with_transformers(case: Case, dtype: str, tmp_path: Path) -> None:
    agree(case, dtype, tmp_path)


@pytest.mark.parametrize("name", ["mistral-window5", "qwen3", "gemma-mqa", "stablelm-head64", "cohere-qk-norm-bias"])
def test_other_families_agree_with_transformers(name: str, tmp_path: Path) -> None:
    agree(FAMILY_CASES[name], "float16", tmp_path)


@pytest.mark.parametrize("name", ["gpt2", "opt-projected-after", "falcon-40b-untied", "phi", "nemotron-gqa"])
def test_families_before_llama_agree_with_transformers(name: str, tmp_path: Path) -> None:
    agree(FAMILY_CASES[name], "float16", tmp_path)


@pytest.mark.parametrize("name", ["bloom", "mpt-6-heads-clipped-scaled"])
def test_families_with_slopes_agree_with_transformers(name: str, tmp_path: Path) -> None:
    agree(FAMILY_CASES[name], "float16", tmp_path, fused=False)


@pytest.mark.parametrize("name", ["qwen2-moe", "deepseek-v3-groups-yarn"])
def test_experts_are_layers(name: str, tmp_path: Path) -> None:
    agree(FAMILY_CASES_MOE[name], "float16", tmp_path)


def agree(case: Case, dtype: str, tmp_path: Path, *, fused: bool = True) -> None:
    """Assert that the plan is built, with attention in one kernel, and that its network gives transformers' logits."""
    folder = checkpoint(case.name)
    model = read_model(folder, dtype=dtype, **LIMITS)
    graph, source = plan(model, target="tensorrt-rtx").graph, model.checkpoint.source
    built, _ = build_plan(graph, source, tmp_path / "engine")
    assert any("_mha_" in name for name in kernels(built)) or not fused
    network = network_of(graph, source, rounds=False)
    batch = {"B": len(case.lengths)}
    stored = [i for i in graph.inputs if i.key.endswith("_cache")]
    caches = {i.key: np.zeros([evaluate(size, batch) for size in i.shape], np.float32) for i in stored}
    rows: list[Floats] = []
    for ids, lengths, past in calls(case):
        got = network({"input_ids": ids, "input_lengths": lengths, "past_lengths": past, **caches})
        caches = {key: got[f"{key}.next"] for key in caches}
        rows.append(got["logits"])
    want = np.stack(reference(folder, case, dtype))
    np.testing.assert_allclose(np.stack(rows, 1), want, rtol=0, atol=TOLERANCE)
