"""One engine for several architectures: a plan for each, of one graph and over the same weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_families import logits, meant
from emulated_cuda import compile_emulated
from models import KNOWN, LIMITS, checkpoint

from trtc.backend.cuda.plan import Plan, plans_of
from trtc.backend.cuda.simulate import Simulator
from trtc.backend.kernels import KERNELS, Launch, operand, result
from trtc.backend.targets import target
from trtc.compiler import plan, read_model
from trtc.errors import TrtcError
from trtc.ir import Graph
from trtc.ir.ops import Input, RMSNorm, Weight
from trtc.ir.types import f32

NAME = "llama3-head64-old"   # whose prompts Hopper's kernel attends with
CHOSEN = (80, 86, 90)


@pytest.fixture(scope="module")
def planned() -> tuple[Graph, list[Plan]]:
    graph = plan(read_model(checkpoint(NAME), dtype="float16", **LIMITS), target="cuda:80,86,90").graph
    return graph, plans_of(graph, CHOSEN)


def attending(made: Plan) -> set[str]:
    return {s.kernel.name for s in made.phases[-1].steps if s.kernel and "prefill" in s.kernel.name}


def test_each_architecture_has_the_kernels_that_are_best_there(planned: tuple[Graph, list[Plan]]) -> None:
    graph, plans = planned
    alone = plan(read_model(checkpoint(NAME), dtype="float16", **LIMITS), target="cuda:90").graph
    assert str(graph) == str(alone)
    assert [attending(made) for made in plans] == [
        {"prefill_attention"}, {"prefill_attention"}, {"hopper_prefill_attention"},
    ]   # fmt: skip
    assert [made.record for made in plans] == [
        {"architecture": 80, "specific": False}, {"architecture": 86, "specific": False},
        {"architecture": 90, "specific": True},
    ]   # fmt: skip


@pytest.mark.parametrize("number", [0, 2])
def test_each_plan_means_what_the_graph_means(planned: tuple[Graph, list[Plan]], number: int) -> None:
    graph, plans = planned
    tensors = read_model(checkpoint(NAME), dtype="float16", **LIMITS).checkpoint.source
    got = logits(graph, Simulator(plans[number], tensors).run, KNOWN[NAME])
    np.testing.assert_allclose(got, meant(NAME, "float16"), rtol=0, atol=2e-2)   # of logits of up to 2, in f16


def test_an_engine_has_its_weights_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bundle = compile_emulated(monkeypatch, checkpoint(NAME), tmp_path, "float16", target="cuda:90,80", **LIMITS)
    assert (bundle.target.version, bundle.ranks[0].engine) == ("80,90", "rank0/plan.json")
    listed = json.loads((tmp_path / "rank0/plan.json").read_text())
    assert listed == {
        "format": "trtc.cuda-plans", "version": 1,
        "plans": [
            {"architecture": 80, "specific": False, "file": "plan-80.json"},
            {"architecture": 90, "specific": True, "file": "plan-90.json"},
        ],
    }   # fmt: skip
    plans: list[dict[str, Any]] = [json.loads((tmp_path / "rank0" / p["file"]).read_text()) for p in listed["plans"]]
    assert plans[0]["weights"] == plans[1]["weights"]
    assert [name for name in bundle.files if name.endswith(".safetensors")] == ["rank0/weights.safetensors"]
    cubins = [{k["file"] for k in made["kernels"]} for made in plans]
    assert {f"rank0/{name}" for name in cubins[0] | cubins[1]} == {n for n in bundle.files if n.endswith(".cubin")}
    for made, names in zip(plans, cubins, strict=True):
        said = [json.loads((tmp_path / "rank0" / name).read_bytes().removeprefix(b"cubin")) for name in names]
        assert {each["architecture"] for each in said} == {made["architecture"]}
    scratch = [phase["scratch_bytes"] for made in plans for phase in made["phases"]]
    assert bundle.builder["kernels"] == sum(len(made["kernels"]) for made in plans)
    assert bundle.builder["scratch_bytes"] == max(scratch)


def test_an_op_must_be_served_on_each_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    norm = RMSNorm(Input("x", f32["B", 8]), Weight("w", f32[8]))
    only = [replace(usual, architectures=(90,)) for usual in KERNELS[RMSNorm]]
    monkeypatch.setitem(KERNELS, RMSNorm, only)
    assert target("cuda:90").refuses(norm) is None
    assert target("cuda:80,90").refuses(norm) == "rms_norm is for architectures 90, not 80"


def test_kernels_that_would_read_different_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_gain(_: RMSNorm) -> Launch:
        return Launch("rms_norm", {}, (1, 1, 1), (32, 1, 1), (operand("x"), result()))

    (usual,) = KERNELS[RMSNorm]
    monkeypatch.setitem(KERNELS, RMSNorm, [replace(usual, rule=without_gain, architectures=(90,)), usual])
    norm = RMSNorm(x := Input("x", f32["B", 8]), Weight("w", f32[8]))
    with pytest.raises(TrtcError) as error:
        plans_of(Graph("g", (x,), {"y": norm}, {"B": (1, 2)}), (80, 90))
    said = "for architectures 80 and 90 kernels read different weights, but an engine has one set"
    assert (error.value.message, error.value.facts) == (said, ("help: compile an engine for each",))
