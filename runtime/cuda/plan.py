"""plan.json: what an engine of target cuda does, step by step, for each range of sizes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from trtc.errors import TrtcError
from trtc.expressions import Expression
from trtc.runtime.bundle import EngineBundle
from trtc.runtime.gpu.device import Device
from trtc.runtime.integrity import AGAIN

FORMAT_VERSION = 1
SEVERAL = "trtc.cuda-plans"   # the format that names a plan for each architecture
PLACES = {"scratch": {""}, "counters": {""}}   # of which there is one each
NUMBERS = ("i32", "i64", "f32")
FIELDS = {
    "launch": {"kernel", "grid", "block", "arguments"},
    "matmul": {"m", "n", "k", "dtype", "x", "weight", "y", "workspace", "workspace_bytes"},
    "copy": {"from", "to", "bytes"},
}
"""What a step of each kind has at least."""


@dataclass(frozen=True)
class PlanKernel:
    """A kernel of a cubin; ``shared_bytes`` of dynamic shared memory for each block."""

    file: str
    entry: str
    shared_bytes: int


@dataclass(frozen=True)
class PlanTensor:
    """A weight: where it lies in the memory of all weights, and its size."""

    offset: int
    bytes: int


@dataclass(frozen=True)
class Phase:
    """Steps for a range of sizes.

    Args:
        bounds: by symbol, the least and the greatest value.
        tokens: the most that B*S may be; None: whatever the bounds allow.
        scratch_bytes: what the steps compute in.
        steps: as plan.json has them.
    """

    name: str
    bounds: Mapping[str, tuple[int, int]]
    tokens: int | None
    scratch_bytes: int
    steps: tuple[dict[str, Any], ...]

    def takes(self, sizes: Mapping[str, int]) -> bool:
        """Whether these sizes are in its range."""
        inside = all(low <= sizes[name] <= high for name, (low, high) in self.bounds.items())
        return inside and (self.tokens is None or sizes["B"] * sizes["S"] <= self.tokens)


@dataclass(frozen=True)
class Plan:
    """What plan.json says; its files lie beside it, in ``folder``.

    Args:
        architecture: of the cubins: 90 for compute capability 9.0.
        weight_bytes: of the memory of all weights.
        counter_bytes: of memory that is zero before each launch.
    """

    file: Path
    architecture: int
    kernels: tuple[PlanKernel, ...]
    weights_file: str
    weight_bytes: int
    weights: Mapping[str, PlanTensor]
    counter_bytes: Expression
    phases: tuple[Phase, ...]

    def words(self, step: Mapping[str, Any]) -> str:
        """What does a step: a kernel's entry, cuBLASLt, or a copy."""
        number: int = step.get("kernel", 0)
        return {"launch": self.kernels[number].entry, "matmul": "cuBLASLt", "copy": "copy"}[step["kind"]]

    @property
    def folder(self) -> Path:
        return self.file.parent

    @property
    def has_products(self) -> bool:
        """Whether any step is cuBLASLt's."""
        return any(step["kind"] == "matmul" for phase in self.phases for step in phase.steps)

    @property
    def scratch_bytes(self) -> int:
        """What the phase that computes in most memory needs."""
        return max(phase.scratch_bytes for phase in self.phases)

    def phase(self, sizes: Mapping[str, int]) -> Phase | None:
        """The first phase that takes these sizes."""
        return next((phase for phase in self.phases if phase.takes(sizes)), None)


def read_plan(bundle: EngineBundle, device: Device) -> Plan:
    """The plan of a bundle's rank for a GPU; those for others are not read.

    Errors:
        TrtcError: there is none for it, or it is damaged, or of a newer trtc.
    """
    file, stated = _stated(bundle)
    fitting = [each for each in stated if _runs_on(each, device.compute_capability)]
    if not fitting:
        raise TrtcError(
            f"{file} has machine code for {_named(stated)}, but this machine has {device}",
            "help: compile again on this machine, with --target cuda",
        )
    return _plan(file, max(fitting, key=lambda each: each["architecture"]), bundle)


def read_plans(bundle: EngineBundle) -> list[Plan]:
    """The plans of a bundle's rank for all architectures.

    Errors:
        TrtcError: one is damaged, or of a newer trtc.
    """
    file, stated = _stated(bundle)
    return [_plan(file, each, bundle) for each in stated]


def _stated(bundle: EngineBundle) -> tuple[Path, list[dict[str, Any]]]:
    """plan.json, and what it holds or names: plans with their architectures."""
    file = bundle.path / bundle.ranks[0].engine
    spec = _read(file)
    if spec.get("format") != SEVERAL:
        return file, [_checked(file, spec, "plan")]
    return file, _checked(file, spec, "plans")["plans"]


def _runs_on(stated: Mapping[str, Any], capability: tuple[int, int]) -> bool:
    """Whether machine code runs on a GPU: of its own generation and no older, or of its own kind alone."""
    major, minor = divmod(stated["architecture"], 10)
    return capability[0] == major and (capability[1] == minor if stated.get("specific") else capability[1] >= minor)


def _named(stated: Sequence[Mapping[str, Any]]) -> str:
    """The compute capabilities of plans, in words."""
    *others, last = (".".join(map(str, divmod(each["architecture"], 10))) for each in stated)
    return f"compute capabilities {', '.join(others)} and {last}" if others else f"compute capability {last}"


def _plan(file: Path, stated: dict[str, Any], bundle: EngineBundle) -> Plan:
    """A plan that plan.json holds or names.

    Args:
        file: plan.json.
    """
    if "file" in stated:
        file = file.parent / stated["file"]
        stated = _checked(file, _read(file), "plan")
    plan = Plan(
        file=file,
        architecture=stated["architecture"],
        kernels=tuple(PlanKernel(**kernel) for kernel in stated["kernels"]),
        weights_file=stated["weights"]["file"],
        weight_bytes=stated["weights"]["bytes"],
        weights={name: PlanTensor(**tensor) for name, tensor in stated["weights"]["tensors"].items()},
        counter_bytes=stated["counter_bytes"],
        phases=tuple(map(_phase, stated["phases"])),
    )
    _check(plan, bundle)
    return plan


def _phase(spec: dict[str, Any]) -> Phase:
    bounds = {name: (low, high) for name, (low, high) in spec["bounds"].items()}
    return Phase(spec["name"], bounds, spec.get("tokens"), spec["scratch_bytes"], tuple(spec["steps"]))


def _read(file: Path) -> dict[str, Any]:
    """What plan.json says, of a version that is known."""
    try:
        said: Any = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TrtcError(f"{file} is missing, but plan.json names it", AGAIN) from None
    except ValueError:
        raise TrtcError(f"{file} is damaged: it is no JSON", AGAIN) from None
    if not isinstance(said, dict):
        raise TrtcError(f"{file} is damaged: it holds no object", AGAIN)
    spec = cast("dict[str, Any]", said)
    version = spec.get("version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise TrtcError(
            f"{file} is a plan of version {version}, but this trtc reads up to {FORMAT_VERSION}",
            "help: upgrade trtc, or compile the engine again with this one",
        )
    return spec


def _checked(file: Path, spec: dict[str, Any], schema: str) -> dict[str, Any]:
    """What a file holds, if it is as a schema says."""
    jsonschema: Any = import_module("jsonschema")
    wanted = json.loads(files("trtc.runtime.cuda").joinpath(f"{schema}.schema.json").read_text(encoding="utf-8"))
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(wanted).iter_errors(spec))
    if error is not None:
        raise TrtcError(f"{file} breaks its schema at {error.json_path}: {error.message}", AGAIN)
    return spec


def _check(plan: Plan, bundle: EngineBundle) -> None:
    """Check what the schema does not: steps, and that what they refer to is there."""
    rank = bundle.ranks[0]
    known = {"weight": set(plan.weights), "io": {t.name for t in (*rank.inputs, *rank.outputs)}, **PLACES}
    for phase in plan.phases:
        for number, step in enumerate(phase.steps):
            if wrong := _wrong(step, len(plan.kernels), known):
                raise TrtcError(f"{plan.file}: step {number} of {phase.name} {wrong}", AGAIN)


def _wrong(step: Mapping[str, Any], kernels: int, known: Mapping[str, Set[str]]) -> str:
    """What is wrong with a step; empty where nothing is.

    Args:
        kernels: how many there are.
        known: by kind of place, the names that there are.
    """
    kind = step.get("kind", "")
    if kind not in FIELDS:
        return f"is a {kind}, but must be one of {', '.join(FIELDS)}"
    if missing := FIELDS[kind] - step.keys():
        return f"is a {kind}, but has no {min(missing)}"
    if kind == "launch" and not 0 <= step["kernel"] < kernels:
        return f"launches kernel {step['kernel']}, but there are {kernels}"
    given: list[Any] = [*step.get("arguments", ()), *(value for value in step.values() if isinstance(value, dict))]
    for entry in given:
        at, name = entry.get("at", ""), entry.get("name", "")
        if at and name not in known.get(at, ()):
            return f"uses {at} {name}, but there is none"
        if not at and entry.keys().isdisjoint(NUMBERS):
            return "has an argument that is neither a place nor a number"
    return ""
