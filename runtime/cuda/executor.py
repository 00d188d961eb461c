"""Running a launch plan: which of its phases takes some sizes, and what its steps refer to."""

from __future__ import annotations

from collections.abc import Mapping

from trtc.errors import TrtcError
from trtc.expressions import evaluate
from trtc.runtime.cuda.plan import Phase, Plan
from trtc.runtime.cuda.program import Machine, PlanRun, Program
from trtc.runtime.cuda.weights import PlanWeights
from trtc.runtime.gpu.buffers import Sizes


class PlanExecutor:
    """Runs a launch plan.

    Args:
        multiprocessors: of the GPU, a size that launches depend on.
    """

    def __init__(self, plan: Plan, machine: Machine, weights: PlanWeights, multiprocessors: int) -> None:
        self.plan, self._machine, self._weights = plan, machine, weights
        self._multiprocessors = multiprocessors
        self._programs: dict[str, Program] = {}

    @property
    def scratch_bytes(self) -> int:
        return self.plan.scratch_bytes

    def fits(self, sizes: Sizes) -> bool:
        return self.plan.phase(self._symbols(sizes)) is not None

    def _symbols(self, sizes: Sizes) -> dict[str, int]:
        """The sizes by the names that expressions have for them."""
        return {**sizes.symbols, "multiprocessors": self._multiprocessors}

    def phase(self, sizes: Sizes) -> Phase:
        """The phase that takes some sizes.

        Errors:
            TrtcError: there is none.
        """
        symbols = self._symbols(sizes)
        phase = self.plan.phase(symbols)
        if phase is None:
            said = ", ".join(f"{name} {symbols[name]}" for name in "BSM")
            raise TrtcError(f"{self.plan.file} has no phase for {said}", "help: compile with greater limits")
        return phase

    def run(self, sizes: Sizes, addresses: Mapping[str, int], scratch: int) -> PlanRun:
        symbols, phase = self._symbols(sizes), self.phase(sizes)
        if phase.name not in self._programs:
            self._programs[phase.name] = Program(phase)

        def value(kind: str, name: str) -> int:
            match kind:
                case "size":
                    return evaluate(name, symbols)
                case "io":
                    return addresses[name]
                case "weight":
                    return self._weights.addresses[name]
                case "counters":
                    return self._weights.counters
                case _:
                    return scratch

        return self._programs[phase.name].bind(self._machine, value)
