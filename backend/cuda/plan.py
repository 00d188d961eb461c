"""Launch plans: every phase of an engine as steps over laid out memory, and the JSON that the runtime reads.

    {"format": "trtc.cuda-plan", "version": 1, "architecture": 90, "specific": false,
     "kernels": [{"file": "kernels/linear-ab12.cubin", "entry": "skinny_linear", "shared_bytes": 0}, ...],
     "weights": {"file": "weights.safetensors", "bytes": n, "tensors": {NAME: {"offset": n, "bytes": n}, ...}},
     "counter_bytes": n,
     "phases": [{"name": "decode-1", "bounds": {"B": [1, 1], "S": [1, 1], "M": [1, 4096]}, "tokens": 1,
                 "scratch_bytes": n, "peak": n, "lower_bound": n, "steps": [STEP, ...]}, ...]}

A phase serves sizes within its bounds whose B * S is at most ``tokens``; of several the first is meant. Weights are
tensors of the file, in its order, each at its offset of one allocation. Counters are zero before the first step and
after each. ``scratch_bytes`` is what a run of the phase needs; ``peak`` the same, which ``lower_bound``, the bytes that
live at one time at most, may be compared with. A STEP is one of

    {"kind": "launch", "kernel": n, "grid": [EXPR, EXPR, EXPR], "block": [n, n, n], "overlaps": true,
     "loc": "layers.0.attention", "op": "cuda.fused_linear", "arguments": [ARGUMENT, ...]}
    {"kind": "matmul", "loc": ..., "m": EXPR, "n": n, "k": n, "dtype": "bf16", "x": REF, "weight": REF,
     "bias": REF or null, "residual": REF or null, "y": REF, "workspace": REF, "workspace_bytes": n}
    {"kind": "copy", "loc": ..., "from": REF, "to": REF, "bytes": EXPR}

``y[m, n] = x[m, k] @ weight[n, k]^T + bias[n] + residual[m, n]``, with sums in f32. An ARGUMENT is a REF or a number,
``{"i32": EXPR}``, ``{"i64": EXPR}`` or ``{"f32": x}``. A REF is ``{"at": "weight", "name": ..., "offset": n}``,
``{"at": "scratch", "offset": n}``, ``{"at": "io", "name": ..., "offset": n}``, where an output that updates an input
goes by the input's name, or ``{"at": "counters"}``. An EXPR is a number, or text for `trtc.expressions` in B, S, M,
P and ``multiprocessors``. A step with ``overlaps`` may start before the one before it is done: it waits by itself. The
first has none: a run begins when all that came before is done.

A plan of architecture 86 runs on GPUs of compute capability 8.6 and of later ones of its generation, 8.7 to 8.9; if it
is ``specific``, on those of 8.6 alone. An engine for several architectures has a plan for each, and as plan.json

    {"format": "trtc.cuda-plans", "version": 1,
     "plans": [{"architecture": 80, "specific": false, "file": "plan-80.json"}, ...]}

Of those that run on a GPU the one of the greatest architecture is meant. Phases and the bounds of each, weights and
their places are the same in all of them; kernels, machine code, grids and scratch memory are each plan's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from trtc.backend.cuda.memory import MULTIPROCESSORS, Layout, layout
from trtc.backend.cuda.phases import Phase, phases
from trtc.backend.cuda.steps import Buffer, Region, Step, steps_of
from trtc.backend.cuda.weights import Weights
from trtc.backend.kernels import Kernel, Launch, Pointer, product
from trtc.backend.kernels.launch import Argument
from trtc.backend.kernels.ops import FusedLinear
from trtc.errors import TrtcError
from trtc.expressions import evaluate
from trtc.ir.graph import Graph
from trtc.ir.ops import Linear

FORMAT, SEVERAL, VERSION = "trtc.cuda-plan", "trtc.cuda-plans", 1
EARLY = ("weight", "bias", "scales", "zeros", "fc", "proj")   # operands that kernels may read before they wait


@dataclass(frozen=True)
class PhasePlan:
    """The steps of a phase, and where its buffers lie."""

    phase: Phase
    steps: Sequence[Step]
    layout: Layout


@dataclass(frozen=True)
class Plan:
    """All that an engine does.

    Args:
        architecture: that its kernels are compiled for.
        weights: that its steps read.
    """

    architecture: int
    phases: Sequence[PhasePlan]
    weights: Weights

    @property
    def kernels(self) -> dict[tuple[Any, ...], tuple[Kernel, Launch]]:
        """Each kernel that differs from the others, with a launch of it, by what makes it different."""
        return {kernel_key(k, n): (k, n) for p in self.phases for s in p.steps if (k := s.kernel) and (n := s.launch)}

    @property
    def record(self) -> dict[str, Any]:
        """What decides which GPUs it runs on: of which its kernels' machine code is."""
        specific = any(kernel.specific for kernel, _ in self.kernels.values())
        return {"architecture": self.architecture, "specific": specific}

    @property
    def counter_bytes(self) -> int:
        """What the greatest launch counts in."""
        found = {(s.launch.counter_bytes, n) for n, p in enumerate(self.phases) for s in p.steps if s.launch}
        sizes = [[{**e, "multiprocessors": MULTIPROCESSORS} for e in p.phase.extremes()] for p in self.phases]
        return max((evaluate(bytes, each) for bytes, n in found for each in sizes[n]), default=0)

    def document(self, files: Mapping[tuple[Any, ...], str], weights: str) -> dict[str, Any]:
        """The plan as JSON.

        Args:
            files: of machine code, by the kernel's key.
            weights: the file of weights.
        """
        kernels = self.kernels
        order = {key: number for number, key in enumerate(kernels)}
        return {
            "format": FORMAT, "version": VERSION, **self.record,
            "kernels": [
                {"file": files[key], "entry": launch.entry, "shared_bytes": launch.shared_bytes}
                for key, (_, launch) in kernels.items()
            ],
            "weights": {"file": weights, "bytes": self.weights.end, "tensors": self.weights.record()},
            "counter_bytes": self.counter_bytes,
            "phases": [_phase(p, order) for p in self.phases],
        }   # fmt: skip


def kernel_key(kernel: Kernel, launch: Launch) -> tuple[Any, ...]:
    """What machine code depends on."""
    return kernel.source, launch.entry, launch.shared_bytes, tuple(sorted(launch.defines.items()))


def plans_of(graph: Graph, architectures: Iterable[int]) -> list[Plan]:
    """The plan of a legal graph for each architecture.

    Errors:
        TrtcError: they would need weights of their own.
    """
    narrowed = list(phases(graph))
    plans = [_plan(narrowed, each) for each in architectures]
    for other in plans[1:]:
        if other.weights.stored != plans[0].weights.stored:
            said = f"for architectures {plans[0].architecture} and {other.architecture} kernels read different weights"
            raise TrtcError(f"{said}, but an engine has one set", "help: compile an engine for each")
    return plans


def _plan(narrowed: Iterable[Phase], architecture: int) -> Plan:
    weights = Weights()
    found: list[PhasePlan] = []
    for phase in narrowed:
        steps = steps_of(phase.graph, architecture, weights)
        found.append(PhasePlan(phase, steps, layout(steps, phase.extremes())))
    return Plan(architecture, found, weights)


def _phase(planned: PhasePlan, order: Mapping[tuple[Any, ...], int]) -> dict[str, Any]:
    phase, memory = planned.phase, planned.layout
    steps = [_STEPS[s.kind](s, memory, order) for s in planned.steps]
    written = set[Buffer]()
    for step, entry in zip(planned.steps, steps, strict=True):
        if step.launch:
            entry["overlaps"] = step is not planned.steps[0] and _overlaps(step, written)
        written |= {region.buffer for region in step.results}
    return {
        "name": phase.name, "bounds": {name: list(pair) for name, pair in phase.bounds.items()}, "tokens": phase.tokens,
        "scratch_bytes": memory.bytes, "peak": memory.bytes, "lower_bound": memory.lower_bound,
        "steps": steps,
    }   # fmt: skip


def _launch(step: Step, memory: Layout, order: Mapping[tuple[Any, ...], int]) -> dict[str, Any]:
    kernel, launch, op = step.kernel, step.launch, step.op
    assert kernel and launch and op
    return {
        "kind": "launch", "kernel": order[kernel_key(kernel, launch)], "grid": list(launch.grid),
        "block": list(launch.block), "loc": step.loc, "op": op.name,
        "arguments": [_argument(a, step, memory) for a in launch.arguments],
    }   # fmt: skip


def _overlaps(step: Step, written: Set[Buffer]) -> bool:
    """Whether a launch may start early: what its kernel reads before it waits must be nobody's result.

    Args:
        written: by the steps before it.
    """
    launch, given = step.launch, step.operands
    assert launch
    weights = (given[name].buffer for name in EARLY if name in given)
    others = (given[name].buffer for name in launch.early if name in given)
    told = all(buffer.at != "scratch" and buffer not in written for buffer in others)
    return launch.overlaps and told and all(buffer.at == "weight" for buffer in weights)


def _argument(argument: Argument, step: Step, memory: Layout) -> dict[str, Any]:
    if not isinstance(argument, Pointer):
        return {argument.dtype: argument.value}
    match argument.kind:
        case "operand":
            return reference(step.operands[argument.name], memory)
        case "result":
            return reference(step.results[int(argument.name)], memory)
        case "workspace":
            assert step.workspace
            return reference(Region(step.workspace), memory)
        case "counters":
            return {"at": "counters"}


def _matmul(step: Step, memory: Layout, order: Mapping[tuple[Any, ...], int]) -> dict[str, Any]:
    op, given = step.op, step.operands
    assert isinstance(op, Linear | FusedLinear) and step.workspace
    n, k = op.weight.shape
    rest = {role: reference(given[role], memory) if role in given else None for role in ("bias", "residual")}
    return {
        "kind": "matmul", "loc": step.loc, "m": product(*op.x.shape[:-1]), "n": n, "k": k, "dtype": op.dtype.name,
        "x": reference(given["x"], memory), "weight": reference(given["weight"], memory), **rest,
        "y": reference(step.results[0], memory),
        "workspace": reference(Region(step.workspace), memory), "workspace_bytes": step.workspace.bytes,
    }   # fmt: skip


def _copy(step: Step, memory: Layout, order: Mapping[tuple[Any, ...], int]) -> dict[str, Any]:
    source, target = step.operands["from"], step.results[0]
    return {
        "kind": "copy", "loc": step.loc, "from": reference(source, memory), "to": reference(target, memory),
        "bytes": target.buffer.bytes,
    }   # fmt: skip


_STEPS = {"launch": _launch, "matmul": _matmul, "copy": _copy}


def reference(region: Region, memory: Layout) -> dict[str, Any]:
    """A place, as the plan states it."""
    buffer = region.buffer
    if buffer.at == "scratch":
        return {"at": "scratch", "offset": memory.offsets[buffer] + region.offset}
    return {"at": buffer.at, "name": buffer.name, "offset": region.offset}
