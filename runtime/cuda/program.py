"""The steps of a phase: read once, then bound to sizes and addresses as often as those change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from trtc.runtime.cuda.cublaslt import Operands, Shape
from trtc.runtime.cuda.plan import Phase
from trtc.runtime.cuda.products import Products
from trtc.runtime.cuda.slots import Slots, Values
from trtc.runtime.gpu.kernel import Kernel, Launch, configure
from trtc.runtime.gpu.stream import Stream


@dataclass(frozen=True)
class Machine:
    """What steps run on.

    Args:
        stream: what they are told to.
        kernels: of the plan, in its order.
        products: None where the plan has none.
        overlaps: whether launches may begin before what comes before them is done.
    """

    stream: Stream
    kernels: Sequence[Kernel]
    products: Products | None
    overlaps: bool


class Bound(Protocol):
    """A step whose sizes and addresses are known."""

    def enqueue(self, stream: Stream) -> None:
        """Have the stream do it."""
        ...


Step: TypeAlias = Callable[[Machine, Values], Bound]


@dataclass(frozen=True)
class PlanRun:
    """Steps with sizes and addresses bound.

    Args:
        values: the memory of kernels' arguments.
    """

    steps: list[Bound]
    values: Values

    def enqueue(self, stream: Stream) -> None:
        for step in self.steps:
            step.enqueue(stream)

    def capturable(self, stream: Stream) -> bool:
        return True


class Program:
    """The steps of a phase, and the slots of what they use."""

    def __init__(self, phase: Phase) -> None:
        self.slots = Slots()
        read = {"launch": self._launch, "matmul": self._matmul, "copy": self._copy}
        self._steps = [read[step["kind"]](step) for step in phase.steps]

    def bind(self, machine: Machine, value: Callable[[str, str], int]) -> PlanRun:
        """The steps with these values.

        Args:
            value: as of `Slots.fill`.
        """
        values = self.slots.fill(value)
        return PlanRun([step(machine, values) for step in self._steps], values)

    def _launch(self, step: dict[str, Any]) -> Step:
        grid = [self.slots.number(n) for n in step["grid"]]
        arguments = self.slots.arguments(step["arguments"])
        number: int = step["kernel"]
        block, overlaps = step["block"], step.get("overlaps", False)

        def bind(machine: Machine, values: Values) -> Launch:
            kernel = machine.kernels[number]
            blocks = [values[place] for place in grid]
            config = configure(machine.stream, blocks, block, kernel.shared, overlaps and machine.overlaps)
            return Launch(kernel, config, values.pointers(arguments))

        return bind

    def _matmul(self, step: dict[str, Any]) -> Step:
        sizes = [self.slots.number(step[name]) for name in "mnk"]
        roles = ("x", "weight", "bias", "residual", "y", "workspace")
        places = {role: self.slots.address(step[role]) for role in roles if step.get(role)}

        def bind(machine: Machine, values: Values) -> Bound:
            assert machine.products, "a plan with products has cuBLASLt"
            operands = Operands(**{role: values[place] for role, place in places.items()})
            m, n, k = (values[place] for place in sizes)
            shape = Shape(m, n, k, step["dtype"], "residual" in places, step["workspace_bytes"], operands.alignments)
            return machine.products.matmul(shape, operands)

        return bind

    def _copy(self, step: dict[str, Any]) -> Step:
        target, source = (self.slots.address(step[name]) for name in ("to", "from"))
        size = self.slots.number(step["bytes"])
        return lambda machine, values: Copy(values[target], values[source], values[size])


@dataclass(frozen=True)
class Copy:
    """A copy between addresses."""

    target: int
    source: int
    size: int

    def enqueue(self, stream: Stream) -> None:
        stream.copy(self.target, self.source, self.size)
