"""TensorRT-RTX builds a plan of every family, whose network means what the graph means.

Two profiles each; attention is in one kernel where its heads have a size that there is one of.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tensorrt_rtx_bindings")

from models import CASES, Case, every
from tensorrt_evaluator import build_plan, kernels
from tensorrt_families import FIRST, UNFUSED, agrees

FAMILIES = {case.name: case for case in FIRST.values()}
REST = {name: case for name, case in CASES.items() if name not in FAMILIES}
"""LLaMA's: heads that are padded, angles that depend on lengths, file layouts."""


@every(FAMILIES)
def test_a_family_in_16_bits(case: Case, tmp_path: Path) -> None:
    for dtype in ("float16", "bfloat16"):
        check(case, dtype, tmp_path / dtype)


@every(REST)
def test_every_other_llama(case: Case, tmp_path: Path) -> None:
    check(case, "bfloat16" if len(case.name) % 2 else "float16", tmp_path / "engine")   # half of them each


def check(case: Case, dtype: str, out: Path) -> None:
    model, graph, _ = agrees(case, dtype, "tensorrt-rtx")
    plan, said = build_plan(graph, model.checkpoint.source, out)
    assert [ranges["S"] for ranges in said["profiles"]] == [(1, 20, 40), (1, 1, 1)]
    assert any("_mha_" in name for name in kernels(plan)) == (case.architecture not in UNFUSED)
    assert [o["name"] for o in said["outputs"]][-1].endswith("_cache.next")
