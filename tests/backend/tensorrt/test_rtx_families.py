"""TensorRT-RTX builds a plan of every family, whose network means what the graph means.

Two profiles each; attention is in one kernel where its heads have a size that there is one of.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tensorrt_rtx_bindings")

from models import CASES, Case, every
from tensorrt_evaluator import build_plan, kernels
from tensorrt_families import FIRST, agrees

from trtc.backend.tensorrt.profiles import profiles

HARD = ("mqa-bias-head20", "dynamic-beyond-old-head6", "llama3-head64-old", "yarn-mscale-sharded")
"""Of LLaMA's: heads that are padded, angles that depend on lengths."""
OTHERS = {case.name: case for case in FIRST.values()}
UNFUSED = {"Gemma2ForCausalLM"}   # whose scores are capped, which no kernel of TensorRT knows


@every({**OTHERS, **{name: CASES[name] for name in HARD}})
def test_a_family_in_16_bits(case: Case, tmp_path: Path) -> None:
    for dtype in ("float16", "bfloat16"):
        model, graph, _ = agrees(case, dtype, "tensorrt-rtx")
        assert len(profiles(graph.bounds)) == 2
        plan, said = build_plan(graph, model.checkpoint.source, tmp_path / dtype)
        assert any("_mha_" in name for name in kernels(plan)) == (case.architecture not in UNFUSED)
        assert [o["name"] for o in said["outputs"]][-1].endswith("_cache.next")
