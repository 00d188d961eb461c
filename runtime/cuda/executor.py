"""Running a launch plan: its phases, and their steps with sizes and addresses bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from trtc.errors import TrtcError
from trtc.expressions import evaluate
from trtc.runtime.cuda.cublaslt import CublasLt, Operands, Shape
from trtc.runtime.cuda.plan import Phase, Plan
from trtc.runtime.cuda.slots import Slots, Values
from trtc.runtime.cuda.weights import PlanWeights
from trtc.runtime.gpu.buffers import Sizes
from trtc.runtime.gpu.kernel import Kernel, configure
from trtc.runtime.gpu.stream import Stream


class Bound(Protocol):
    """A step whose sizes and addresses are known."""

    def enqueue(self, stream: Stream) -> None:
        """Have the stream do it."""
        ...


class PlanExecutor:
    """Runs a launch plan.

    Args:
        kernels: of the plan, in its order.
        multiprocessors: of the GPU, a size that launches depend on.
        blas: for the products; None where the plan has none.
        overlaps: whether launches may begin before those before them are done.
    """

    def __init__(
        self, plan: Plan, stream: Stream, kernels: Sequence[Kernel], weights: PlanWeights, multiprocessors: int,
        blas: CublasLt | None, *, overlaps: bool,
    ) -> None:   # fmt: skip
        self.plan, self.stream, self.weights = plan, stream, weights
        self._kernels, self._blas, self._overlaps = kernels, blas, overlaps
        self._multiprocessors = multiprocessors
        self._programs: dict[str, Program] = {}

    @property
    def scratch_bytes(self) -> int:
        return self.plan.scratch_bytes

    def fits(self, sizes: Sizes) -> bool:
        return self.plan.phase(self.symbols(sizes)) is not None

    def symbols(self, sizes: Sizes) -> dict[str, int]:
        """The sizes by the names that expressions have for them."""
        symbols = {"B": sizes.batch, "S": sizes.tokens, "M": sizes.capacity}
        return {**symbols, "multiprocessors": self._multiprocessors}

    def run(self, sizes: Sizes, addresses: Mapping[str, int], scratch: int) -> PlanRun:
        symbols = self.symbols(sizes)
        phase = self.plan.phase(symbols)
        if phase is None:
            said = ", ".join(f"{name} {symbols[name]}" for name in "BSM")
            raise TrtcError(f"{self.plan.file} has no phase for {said}", "help: compile with greater limits")

        def value(kind: str, name: str) -> int:
            match kind:
                case "size":
                    return evaluate(name, symbols)
                case "io":
                    return addresses[name]
                case "weight":
                    return self.weights.addresses[name]
                case "counters":
                    return self.weights.counters
                case _:
                    return scratch

        program = self._program(phase)
        return program.bind(self, program.slots.fill(value))

    def _program(self, phase: Phase) -> Program:
        if phase.name not in self._programs:
            self._programs[phase.name] = Program(phase)
        return self._programs[phase.name]

    def launch(self, step: LaunchStep, values: Values, pointers: Values) -> Launch:
        """A launch, bound."""
        grid, kernel = values[step.grid : step.grid + 3].tolist(), self._kernels[step.kernel]
        overlaps = step.overlaps and self._overlaps
        config = configure(self.stream, (grid[0], grid[1], grid[2]), step.block, kernel.shared, overlaps)
        return Launch(kernel, config, int(pointers[step.arguments : step.arguments + 1].ctypes.data))

    def matmul(self, step: MatmulStep, values: Values) -> Bound:
        """A product, bound."""
        assert self._blas, "a plan with products has cuBLASLt"
        m, n, k, *addresses = (int(values[place]) if place is not None else 0 for place in step.places)
        operands = Operands(*addresses)
        shape = Shape(m, n, k, step.dtype, bool(operands.residual), step.workspace_bytes, operands.alignments)
        return self._blas.matmul(shape, operands)


@dataclass(frozen=True)
class LaunchStep:
    """A launch; ``grid`` and ``arguments`` are the places of the first of their slots."""

    kernel: int
    grid: int
    block: tuple[int, int, int]
    arguments: int
    overlaps: bool

    def bind(self, executor: PlanExecutor, values: Values, pointers: Values) -> Bound:
        return executor.launch(self, values, pointers)


@dataclass(frozen=True)
class MatmulStep:
    """A product; ``places`` of the slots of m, n, k, x, weight, bias, residual, y and workspace."""

    places: tuple[int | None, ...]
    dtype: str
    workspace_bytes: int

    def bind(self, executor: PlanExecutor, values: Values, pointers: Values) -> Bound:
        return executor.matmul(self, values)


@dataclass(frozen=True)
class CopyStep:
    """A copy; places of slots."""

    target: int
    source: int
    size: int

    def bind(self, executor: PlanExecutor, values: Values, pointers: Values) -> Bound:
        return Copy(*(int(values[place]) for place in (self.target, self.source, self.size)))


@dataclass(frozen=True)
class FillStep:
    """Bytes of one value; places of slots."""

    target: int
    byte: int
    size: int

    def bind(self, executor: PlanExecutor, values: Values, pointers: Values) -> Bound:
        return Fill(int(values[self.target]), self.byte, int(values[self.size]))


class Program:
    """The steps of a phase, and the slots that they use."""

    def __init__(self, phase: Phase) -> None:
        self.slots = Slots()
        self._steps = [getattr(self, f"_{step['kind']}")(step) for step in phase.steps]

    def bind(self, executor: PlanExecutor, values: Values) -> PlanRun:
        """The steps with these values in the slots."""
        pointers = values.ctypes.data + values.itemsize * np.arange(len(values), dtype=np.int64)
        return PlanRun([step.bind(executor, values, pointers) for step in self._steps], (values, pointers))

    def _launch(self, step: dict[str, Any]) -> LaunchStep:
        first, *_ = [self.slots.number(n) for n in step["grid"]]
        block = step["block"]
        arguments = [self.slots.argument(argument) for argument in step["arguments"]]
        at = arguments[0] if arguments else first
        return LaunchStep(step["kernel"], first, (block[0], block[1], block[2]), at, step.get("overlaps", False))

    def _matmul(self, step: dict[str, Any]) -> MatmulStep:
        places: list[int | None] = [self.slots.number(step[name]) for name in "mnk"]
        for name in ("x", "weight", "bias", "residual", "y", "workspace"):
            places.append(self.slots.address(step[name]) if step.get(name) else None)
        return MatmulStep(tuple(places), step["dtype"], step["workspace_bytes"])

    def _copy(self, step: dict[str, Any]) -> CopyStep:
        target, source = (self.slots.address(step[name]) for name in ("to", "from"))
        return CopyStep(target, source, self.slots.number(step["bytes"]))

    def _fill(self, step: dict[str, Any]) -> FillStep:
        return FillStep(self.slots.address(step["to"]), step.get("byte", 0), self.slots.number(step["bytes"]))


@dataclass(frozen=True)
class PlanRun:
    """Steps with sizes and addresses bound.

    Args:
        memory: of the kernels' arguments.
    """

    steps: list[Bound]
    memory: tuple[Values, Values]

    def enqueue(self, stream: Stream) -> None:
        for step in self.steps:
            step.enqueue(stream)

    def capturable(self, stream: Stream) -> bool:
        return True


@dataclass(frozen=True)
class Launch:
    """A kernel with its launch configuration and the address of its arguments' addresses."""

    kernel: Kernel
    config: Any
    arguments: int

    def enqueue(self, stream: Stream) -> None:
        self.kernel.launch(self.config, self.arguments)


@dataclass(frozen=True)
class Copy:
    target: int
    source: int
    size: int

    def enqueue(self, stream: Stream) -> None:
        stream.copy(self.target, self.source, self.size)


@dataclass(frozen=True)
class Fill:
    target: int
    byte: int
    size: int

    def enqueue(self, stream: Stream) -> None:
        stream.fill(self.target, self.byte, self.size)
