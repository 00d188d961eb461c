"""How long the steps of a launch plan take on a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from trtc.runtime.bundle import EngineBundle
from trtc.runtime.cuda.executor import PlanExecutor
from trtc.runtime.cuda.plan import Phase, Plan, read_plans
from trtc.runtime.cuda.program import Bound, PlanRun
from trtc.runtime.cuda.session import NoInputs, open_executor
from trtc.runtime.gpu.buffers import Sizes
from trtc.runtime.gpu.session import GPUSession
from trtc.runtime.gpu.stream import Event, Stream

REPEATS = 10   # runs that are timed; the median counts


@dataclass
class Watched:
    """An executor, and the phase and sizes that it was last bound for."""

    executor: PlanExecutor
    last: tuple[Phase, Sizes, PlanRun] | None = None

    @property
    def scratch_bytes(self) -> int:
        return self.executor.scratch_bytes

    def fits(self, sizes: Sizes) -> bool:
        return self.executor.fits(sizes)

    def run(self, sizes: Sizes, addresses: Mapping[str, int], scratch: int) -> PlanRun:
        phase, run = self.executor.phase(sizes), self.executor.run(sizes, addresses, scratch)
        self.last = phase, sizes, run
        return run


def times(bundle: EngineBundle, batch: int = 1, past: int = 0, new: int = 1) -> dict[str, Any]:
    """How long each step takes in a decode step of a batch, or in a prefill.

    Steps that differ in place alone are timed one after the other, as one graph, and share the time equally: each finds
    its weights outside of the GPU's caches, and none waits for the host.

    Args:
        past: tokens in each cache; 0: half of what the engine takes.
        new: tokens of each; more than one: those of prompts, behind nothing.
    Result:
        ``profile``, the number of the phase among those of all plans; ``sizes`` by name; ``context``, keys that
        attention sees; ``seconds``: by the name of a step, the times of each that has it.
    Errors:
        TrtcError: this machine cannot run the plan.
    """
    stream, executor = open_executor(bundle, 0)
    watched = Watched(executor)
    session = GPUSession(bundle, stream, watched, NoInputs(), graphs=False)
    past = 0 if new > 1 else past or bundle.limits.max_seq_len // 2
    session.start(batch, past + new)
    ones = np.ones(batch, np.int32)
    ids = np.random.default_rng(0).integers(0, bundle.vocab_size, (batch, new), np.int32)   # alike ones would be faster
    session.run(new, ids, new * ones, past * ones).logits()
    assert watched.last
    phase, sizes, run = watched.last
    seconds: dict[str, list[float]] = {}
    spent = _spent(stream, executor.plan, phase, run)
    for step, took in zip(phase.steps, spent, strict=True):
        seconds.setdefault(step_name(step), []).append(took)
    said = {name: sizes.symbols[name] for name in ("B", "S", "P" if sizes.pages else "M")}
    known = [(plan.file, each.name) for plan in read_plans(bundle) for each in plan.phases]
    number = known.index((executor.plan.file, phase.name))
    return {"profile": number, "sizes": said, "context": past + new, "seconds": seconds}


def step_name(step: Mapping[str, Any]) -> str:
    """The name by which a step is timed: its place, and the kind of its op."""
    return f"{step.get('loc', '')}/{step.get('op', step['kind'])}"


def _spent(stream: Stream, plan: Plan, phase: Phase, run: PlanRun) -> list[float]:
    """The seconds of each step."""
    groups: dict[str, list[int]] = {}
    for number, step in enumerate(phase.steps):
        shape = [step.get(name) for name in ("grid", "block", "m", "n", "k", "bytes")]
        groups.setdefault(f"{plan.words(step)} {step.get('kernel')} {shape}", []).append(number)
    spent = [0.0] * len(phase.steps)
    for numbers in groups.values():
        took = _seconds(stream, [run.steps[number] for number in numbers])
        for number in numbers:
            spent[number] = took / len(numbers)
    return spent


def _seconds(stream: Stream, steps: Sequence[Bound]) -> float:
    """The seconds of some steps, one after the other."""
    graph = stream.capture(lambda: [step.enqueue(stream) for step in steps])
    found: list[float] = []
    for _ in range(REPEATS):
        begin, end = Event(stream.device), Event(stream.device)
        begin.record(stream)
        graph.launch(stream)
        end.record(stream)
        end.synchronize()
        found.append(end.milliseconds_since(begin) / 1e3)
    return median(found)
