"""The steps of a phase: read once, then bound to sizes and addresses as often as those change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Binding:
    """What the steps of a run are bound to.

    Args:
        values: the memory of kernels' arguments, too.
        configs: of launches so far; those that are alike share one.
    """

    machine: Machine
    values: Values
    configs: dict[tuple[int, ...], Any] = field(default_factory=dict[tuple[int, ...], Any])

    def config(self, grid: Sequence[int], block: Sequence[int], shared: int, overlaps: bool) -> Any:
        """How a kernel is launched, as of `configure`."""
        key = (*grid, *block, shared, overlaps)
        if key not in self.configs:
            self.configs[key] = configure(self.machine.stream, grid, block, shared, overlaps)
        return self.configs[key]


Step: TypeAlias = Callable[[Binding], Bound]


class PlanRun:
    """Steps with sizes and addresses; each is bound when it is first told, while the GPU does those before it.

    Args:
        unbound: all steps.
    """

    def __init__(self, unbound: Sequence[Step], binding: Binding) -> None:
        self._unbound, self._binding = unbound, binding
        self.steps: list[Bound] = []

    def enqueue(self, stream: Stream) -> None:
        for step in self.steps:
            step.enqueue(stream)
        for unbound in self._unbound[len(self.steps) :]:
            step = unbound(self._binding)
            self.steps.append(step)
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
        return PlanRun(self._steps, Binding(machine, self.slots.fill(value)))

    def _launch(self, step: dict[str, Any]) -> Step:
        grid = [self.slots.number(n) for n in step["grid"]]
        arguments = self.slots.arguments(step["arguments"])
        number: int = step["kernel"]
        block, overlaps = step["block"], step.get("overlaps", False)

        def bind(to: Binding) -> Launch:
            kernel, blocks = to.machine.kernels[number], [to.values[place] for place in grid]
            config = to.config(blocks, block, kernel.shared, overlaps and to.machine.overlaps)
            return Launch(kernel, config, to.values.pointers(arguments))

        return bind

    def _matmul(self, step: dict[str, Any]) -> Step:
        m, n, k = (self.slots.number(step[name]) for name in "mnk")
        roles = ("x", "weight", "y", "workspace", "bias", "residual")
        places = [self.slots.address(step[role]) if step.get(role) else None for role in roles]
        kind = step["dtype"], bool(step.get("bias")), bool(step.get("residual")), step["workspace_bytes"]

        def bind(to: Binding) -> Bound:
            assert to.machine.products, "a plan with products has cuBLASLt"
            values = to.values
            operands = Operands(*[0 if place is None else values[place] for place in places])
            shape = Shape(values[m], values[n], values[k], *kind, operands.alignment)
            return to.machine.products.matmul(shape, operands)

        return bind

    def _copy(self, step: dict[str, Any]) -> Step:
        target, source = (self.slots.address(step[name]) for name in ("to", "from"))
        size = self.slots.number(step["bytes"])
        return lambda to: Copy(to.values[target], to.values[source], to.values[size])


@dataclass(frozen=True)
class Copy:
    """A copy between addresses."""

    target: int
    source: int
    size: int

    def enqueue(self, stream: Stream) -> None:
        stream.copy(self.target, self.source, self.size)
