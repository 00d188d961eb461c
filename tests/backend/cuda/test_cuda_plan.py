"""Launch plans: what the JSON says, the layout of memory, and that the simulator finds what may be wrong with them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cuda_families import CALLS, logits, meant, planned
from models import KNOWN, LIMITS

from trtc.backend.cuda.memory import Layout, layout, lifetimes
from trtc.backend.cuda.plan import PhasePlan, Plan
from trtc.backend.cuda.simulate import Simulator
from trtc.backend.cuda.steps import Step
from trtc.errors import TrtcError
from trtc.expressions import evaluate

NAME = "gqa-tied-head16"
KINDS = {"launch", "matmul", "copy"}


def document(plan: Plan) -> dict[str, Any]:
    files = {key: f"{number}.cubin" for number, key in enumerate(plan.kernels)}
    return json.loads(json.dumps(plan.document(files, "weights.safetensors")))


def test_the_document_is_complete() -> None:
    _, graph, plan = planned(NAME)
    said = document(plan)
    assert (said["format"], said["version"], said["architecture"]) == ("trtc.cuda-plan", 1, 90)
    assert [p["name"] for p in said["phases"]] == ["decode-1", "decode-2", "decode-4", "prefill"]
    assert said["phases"][1]["bounds"] == {"B": [2, 2], "S": [1, 1], "M": [1, LIMITS["max_seq_len"]]}
    assert said["phases"][3]["bounds"] == {"B": [1, 4], "S": [1, 40], "M": [1, 48]}
    assert said["phases"][3]["tokens"] == 160
    used = {s["kernel"] for p in said["phases"] for s in p["steps"] if s["kind"] == "launch"}
    assert used == set(range(len(said["kernels"])))
    outputs = {a["name"] for s in said["phases"][0]["steps"] for a in places(s) if a["at"] == "io"}
    named = {i.key for i in graph.inputs} | set(graph.outputs)
    assert outputs == named - {"input_lengths"} | {"input_lengths"}


def places(step: dict[str, Any]) -> list[dict[str, Any]]:
    """Every reference of a step."""
    found = [*step.get("arguments", ()), *(step.get(k) for k in ("x", "weight", "bias", "residual", "y", "from", "to"))]
    return [p for p in found if p and "at" in p]


@pytest.mark.parametrize("name", [NAME, "mixtral", "deepseek-v3-groups-yarn"])
def test_every_reference_lies_within_its_memory(name: str) -> None:
    _, _, plan = planned(name)
    said = document(plan)
    tensors = said["weights"]["tensors"].values()
    assert all(t["offset"] % 256 == 0 and t["offset"] + t["bytes"] <= said["weights"]["bytes"] for t in tensors)
    assert [t["offset"] for t in tensors] == sorted(t["offset"] for t in tensors)
    for phase in said["phases"]:
        for step in phase["steps"]:
            assert step["kind"] in KINDS
            for place in places(step):
                assert place["at"] != "scratch" or place["offset"] < phase["scratch_bytes"]
                assert place["at"] != "weight" or place["name"] in said["weights"]["tensors"]
                assert place.get("offset", 0) % 16 == 0
            sizes = {**{k: most for k, (_, most) in phase["bounds"].items()}, "multiprocessors": 132}
            assert all(evaluate(n, sizes) > 0 for n in step.get("grid", ()))


def test_every_launch_counts_in_the_counters_it_has() -> None:
    _, _, plan = planned("yarn", "bfloat16")
    assert plan.counter_bytes == 4 * 4   # of 4 sequences with a key head: attention, and the ranking of logits
    counting = {s.kernel.name for s in plan.phases[0].steps if s.kernel and s.launch and s.launch.counter_bytes}
    assert counting == {"append_and_attend", "top_k"}


def test_keys_are_read_early_only_where_no_step_has_written_them() -> None:
    """The first step waits for all before the run, and attention again where its cache was written in the run."""
    _, _, plan = planned("yarn", "bfloat16")
    steps = list(phase_of(plan, "decode-1").steps)
    at = [n for n, s in enumerate(steps) if s.op and s.op.name == "cuda.append_and_attend"]
    twice = altered(plan, "decode-1", steps=[*steps[: at[0]], steps[at[0]], *steps[at[0] :]])
    for each, waiting in ((plan, {0}), (twice, {0, at[0] + 1})):
        entries = document(each)["phases"][0]["steps"]
        assert len(at) > 1 and {n for n, entry in enumerate(entries) if not entry["overlaps"]} == waiting


def altered(plan: Plan, phase: str, **changes: Any) -> Plan:
    """The plan with something else in one phase."""
    return replace(plan, phases=[replace(p, **changes) if p.phase.name == phase else p for p in plan.phases])


def is_right(plan: Plan) -> bool:
    """Whether a plan still computes what the graph means."""
    model, graph, _ = planned(NAME)
    try:
        got = logits(graph, Simulator(plan, model.checkpoint.source).run, KNOWN[NAME])
    except (AssertionError, IndexError, TrtcError):
        return False
    return bool(np.allclose(got, meant(NAME), rtol=0, atol=2e-5))


def phase_of(plan: Plan, name: str) -> PhasePlan:
    return next(p for p in plan.phases if p.phase.name == name)


@pytest.mark.parametrize("phase", ["decode-4", "prefill"])
def test_a_wrong_offset_is_found(phase: str) -> None:
    """Each buffer, put where another lies that lives at the same time; but for workspaces, which nothing fills."""
    _, _, plan = planned(NAME)
    assert is_right(plan)
    of = phase_of(plan, phase)
    spaces = {s.workspace for s in of.steps}
    alive = [a for a in lifetimes(of.steps, of.phase.extremes()) if a.buffer not in spaces]
    pairs = [(a, b) for a in alive for b in alive if a is not b and a.meets(b)]
    assert len(pairs) > 20
    for a, b in pairs[:: len(pairs) // 8]:
        moved = {**of.layout.offsets, a.buffer: of.layout.offsets[b.buffer]}
        assert not is_right(altered(plan, phase, layout=replace(of.layout, offsets=moved)))


@pytest.mark.parametrize("phase", ["decode-4", "prefill"])
def test_a_lifetime_that_ends_too_early_is_found(phase: str) -> None:
    """Each buffer that is read later than in the step after the one that made it, given away there."""
    _, _, plan = planned(NAME)
    of = phase_of(plan, phase)
    long = [a for a in lifetimes(of.steps, of.phase.extremes()) if a.last > a.first + 1]
    wrong = 0
    for item in long:
        kept = [replace(s, operands={k: r for k, r in s.operands.items() if r.buffer is not item.buffer})
                if n > item.first + 1 else s for n, s in enumerate(of.steps)]   # fmt: skip
        shorter = layout(kept, of.phase.extremes())
        if overlapping(of.steps, [{"B": 4, "S": 1 if phase == "decode-4" else 7, "M": 48}], shorter):
            assert not is_right(altered(plan, phase, layout=shorter))
            wrong += 1
    assert wrong >= 2


@pytest.mark.parametrize("phase", ["decode-4", "prefill"])
def test_steps_in_another_order_are_found(phase: str) -> None:
    """Each two neighbours of which the second reads what the first makes."""
    _, _, plan = planned(NAME)
    of = phase_of(plan, phase)
    steps = list(of.steps)
    dependent = [n for n in range(len(steps) - 1) if _reads(steps[n + 1], steps[n])]
    assert len(dependent) > 10
    for n in dependent[:: len(dependent) // 6]:
        swapped = [*steps[:n], steps[n + 1], steps[n], *steps[n + 2 :]]
        assert not is_right(altered(plan, phase, steps=swapped))


def _reads(step: Step, other: Step) -> bool:
    made = {r.buffer for r in other.results}
    return any(r.buffer in made for r in step.operands.values())


def overlapping(steps: Sequence[Step], extremes: Any, made: Layout) -> int:
    """Pairs of buffers that live at one time and share bytes."""
    alive = lifetimes(steps, extremes)
    spans = [(made.offsets[a.buffer], made.offsets[a.buffer] + a.bytes, a) for a in alive]
    return sum(
        a.meets(b) and low < end and first < high
        for n, (low, high, a) in enumerate(spans)
        for first, end, b in spans[:n]
    )


@pytest.mark.parametrize("name", list(KNOWN)[::6])
def test_scratch_memory_is_close_to_the_least(name: str) -> None:
    for p in planned(name)[2].phases:
        assert overlapping(p.steps, p.phase.extremes(), p.layout) == 0
        assert p.layout.lower_bound <= p.layout.bytes <= 1.1 * p.layout.lower_bound + 512   # tiny: 256 bytes a buffer
        assert p.layout.bytes % 256 == 0


def test_calls_are_served_by_the_phase_of_their_size() -> None:
    model, _, plan = planned(NAME)
    simulator = Simulator(plan, model.checkpoint.source)
    names = [p.phase.name for p in plan.phases]
    for sizes, name in (((1, 1), "decode-1"), ((4, 1), "decode-4"), ((3, 1), "prefill"), ((1, 2), "prefill")):
        assert names[simulator.phase({"B": sizes[0], "S": sizes[1], "M": 48})] == name
    assert CALLS > 1
