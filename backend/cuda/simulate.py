"""What a plan computes, on a CPU: each step's op on the bytes that the plan gives it, and nothing else.

Memory that nothing has written, or that nobody may read any more, is poisoned: floats there are NaN, integers odd
numbers. So a wrong offset, lifetime, alias or order shows in the results.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from trtc.backend.cuda.plan import PhasePlan, Plan
from trtc.backend.cuda.steps import Buffer, Region, Step
from trtc.expressions import evaluate
from trtc.ir import types
from trtc.ir.errors import IRError
from trtc.ir.materialize import materialize
from trtc.ir.op import Array, Value, binding
from trtc.ir.ops import Constant
from trtc.ir.types import TensorType, i4

POISON = 0xFF   # of every byte: NaN in every float


class Simulator:
    """A plan with its weights.

    Args:
        tensors: the checkpoint's tensors by key.
    """

    def __init__(self, plan: Plan, tensors: Mapping[str, Array]) -> None:
        self.plan = plan
        self.weights = {s.name: np.ascontiguousarray(materialize(s.value, tensors)) for s in plan.weights.stored}

    def phase(self, sizes: Mapping[str, int]) -> PhasePlan:
        """The first phase that serves these sizes."""
        for planned in self.plan.phases:
            within = all(least <= sizes.get(n, least) <= most for n, (least, most) in planned.phase.bounds.items())
            if within and sizes.get("B", 1) * sizes.get("S", 1) <= planned.phase.tokens:
                return planned
        raise IRError(f"no phase serves the sizes {dict(sizes)}")

    def run(self, inputs: Mapping[str, Array], sizes: Mapping[str, int]) -> dict[str, Array]:
        """The outputs by name, and the inputs that are updated by theirs."""
        return _Run(self.phase(sizes), self.weights, inputs, sizes).outputs()


class _Run:
    """One run of a phase under way."""

    def __init__(
        self, planned: PhasePlan, weights: Mapping[str, Array], inputs: Mapping[str, Array], sizes: Mapping[str, int]
    ) -> None:
        self.planned, self.weights, self.sizes = planned, weights, sizes
        self.scratch = np.full(planned.layout.bytes, POISON, np.uint8)
        graph = planned.phase.graph
        self.io = {name: bytes_of(inputs[name]) for name in (i.key for i in graph.inputs)}
        for name, value in graph.outputs.items():
            if name not in self.io:
                self.io[name] = np.full(self._count(value.type) * value.dtype.numpy.itemsize, POISON, np.uint8)

    def outputs(self) -> dict[str, Array]:
        ends: dict[int, set[Buffer]] = {}
        for number, step in enumerate(self.planned.steps):
            for buffer in step.buffers:
                ends[number] = ends.get(number, set()) | {buffer}
        last = {buffer: number for number in sorted(ends) for buffer in ends[number]}
        with binding(self.sizes), np.errstate(all="ignore"):
            for number, step in enumerate(self.planned.steps):
                self._step(step)
                for buffer in ends[number]:
                    if last[buffer] == number and buffer.at == "scratch":
                        self._poison(buffer)
        outputs = self.planned.phase.graph.outputs
        return {name: self._typed(self.io[name], value.type) for name, value in outputs.items()}

    def _step(self, step: Step) -> None:
        if step.op is None:
            count = evaluate(step.results[0].buffer.bytes, self._known)
            self._bytes(step.results[0], count)[:] = self._bytes(step.operands["from"], count)
            return
        if step.workspace:
            self._poison(step.workspace)   # which must hold nothing that anybody needs
        op = step.op
        names = {value: name for name, value in op.operands.items() if name in step.operands}
        arrays = {value: self._operand(step, names.get(value), value) for value in op.operands.values()}
        made: Any = op.evaluate(*op.arguments(arrays))
        several: tuple[Array, ...] = made if isinstance(made, tuple) else (made,)
        for region, array, of in zip(step.results, several, op.types, strict=True):
            content = bytes_of(array.astype(of.dtype.numpy, copy=False))
            assert content.size == self._count(of) * of.dtype.numpy.itemsize, f"{op.name} makes {array.shape}, not {of}"
            self._bytes(region, content.size)[:] = content

    def _operand(self, step: Step, name: str | None, value: Value) -> Array:
        if name is None:
            if isinstance(value, Constant):
                return value.evaluate()
            shape = tuple(types.evaluate(size, self.sizes) for size in value.shape)   # only its sizes are read
            return np.full(shape, 0, value.dtype.numpy)
        region = step.operands[name]
        if value.dtype == i4:
            return self.weights[region.buffer.name]
        return self._typed(self._bytes(region, self._count(value.type) * value.dtype.numpy.itemsize), value.type).copy()

    def _bytes(self, region: Region, count: int) -> Array:
        buffer = region.buffer
        if buffer.at == "weight":
            memory, first = bytes_of(self.weights[buffer.name]), region.offset
        elif buffer.at == "io":
            memory, first = self.io[buffer.name], region.offset
        else:
            memory, first = self.scratch, self.planned.layout.offsets[buffer] + region.offset
        assert first + count <= memory.size, f"bytes {first}..{first + count} are beyond {buffer.at} {buffer.name}"
        return memory[first : first + count]

    def _poison(self, buffer: Buffer) -> None:
        self._bytes(Region(buffer), evaluate(buffer.bytes, self._known))[:] = POISON

    @property
    def _known(self) -> dict[str, int]:
        return {**self.sizes, "multiprocessors": 132}

    def _count(self, of: TensorType) -> int:
        return int(np.prod([types.evaluate(size, self.sizes) for size in of.shape], dtype=np.int64))

    def _typed(self, content: Array, of: TensorType) -> Array:
        shape = tuple(types.evaluate(size, self.sizes) for size in of.shape)
        return content.view(of.dtype.numpy).reshape(shape)


def bytes_of(array: Array) -> Array:
    """The bytes of an array, in memory of its own."""
    return np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8).copy()
