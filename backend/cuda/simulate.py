"""What a plan computes, on a CPU: each step's op on the bytes that the plan's JSON gives it, and nothing else.

Scratch memory that nothing has written, or that nobody may read any more, is poisoned: floats there are NaN, integers
-1. So a wrong offset, lifetime, alias or order shows in the results.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np

from trtc.backend.cuda.plan import PhasePlan, Plan
from trtc.backend.cuda.steps import Buffer, Step
from trtc.backend.cuda.weights import packed
from trtc.backend.kernels import Pointer
from trtc.expressions import Expression, evaluate
from trtc.ir import types
from trtc.ir.errors import IRError
from trtc.ir.materialize import materialize
from trtc.ir.op import Array, Op, binding
from trtc.ir.ops import Constant
from trtc.ir.types import TensorType, i4

Reference: TypeAlias = Mapping[str, Any]   # of the JSON
Sizes: TypeAlias = Mapping[str, int]
POISON = 0xFF   # every byte of it: NaN in every float
MULTIPROCESSORS = 132


class Simulator:
    """A plan with its weights.

    Args:
        tensors: the checkpoint's tensors by key.
    """

    def __init__(self, plan: Plan, tensors: Mapping[str, Array]) -> None:
        self.plan = plan
        files = {key: str(number) for number, key in enumerate(plan.kernels)}
        self.document = json.loads(json.dumps(plan.document(files, "")))
        self.weights = np.full(self.document["weights"]["bytes"], POISON, np.uint8)
        for stored in plan.weights.stored:
            place = self.document["weights"]["tensors"][stored.name]
            content = packed(materialize(stored.value, tensors), stored.value.type)
            self.weights[place["offset"] : place["offset"] + place["bytes"]] = content

    def phase(self, sizes: Sizes) -> int:
        """The number of the first phase that serves these sizes."""
        for number, phase in enumerate(self.document["phases"]):
            within = all(least <= sizes.get(n, least) <= most for n, (least, most) in phase["bounds"].items())
            if within and sizes.get("B", 1) * sizes.get("S", 1) <= phase["tokens"]:
                return number
        raise IRError(f"no phase serves the sizes {dict(sizes)}")

    def run(self, inputs: Mapping[str, Array], sizes: Sizes) -> dict[str, Array]:
        """The outputs by name, and the inputs that are updated by theirs."""
        number = self.phase(sizes)
        return _Run(self, self.plan.phases[number], self.document["phases"][number], inputs, sizes).outputs()


@dataclass(frozen=True)
class _Places:
    """Where a step reads and writes, as the JSON says."""

    operands: Mapping[str, Reference]
    results: Mapping[int, Reference]
    workspace: Reference | None


class _Run:
    """One run of a phase under way."""

    def __init__(
        self, plan: Simulator, planned: PhasePlan, entry: Mapping[str, Any], inputs: Mapping[str, Array], sizes: Sizes
    ) -> None:
        self.planned, self.entry, self.sizes = planned, entry, {**sizes, "multiprocessors": MULTIPROCESSORS}
        graph = planned.phase.graph
        io = {i.key: packed(inputs[i.key], i.type).copy() for i in graph.inputs}
        fresh = {k: v for k, v in graph.outputs.items() if k not in io}
        io |= {name: np.full(self._bytes(value.type), POISON, np.uint8) for name, value in fresh.items()}
        self.io, self.scratch = io, np.full(entry["scratch_bytes"], POISON, np.uint8)
        self.weights, self.tensors = plan.weights, plan.document["weights"]["tensors"]

    def outputs(self) -> dict[str, Array]:
        """Run all steps."""
        steps = self.planned.steps
        last = {buffer: number for number, step in enumerate(steps) for buffer in step.buffers}
        with binding(self.sizes), np.errstate(all="ignore"):
            for number, (step, entry) in enumerate(zip(steps, self.entry["steps"], strict=True)):
                self._do(step, entry)
                for buffer in {b for b in step.buffers if b.at == "scratch" and last[b] == number}:
                    self._forget(buffer)
        outputs = self.planned.phase.graph.outputs
        return {name: self._array({"at": "io", "name": name, "offset": 0}, v.type) for name, v in outputs.items()}

    def _do(self, step: Step, entry: Mapping[str, Any]) -> None:
        if entry["kind"] == "copy":
            count = evaluate(entry["bytes"], self.sizes)
            self._memory(entry["to"], count)[:] = self._memory(entry["from"], count)
            return
        op, places = step.op, _places(step, entry)
        assert op
        if places.workspace and step.workspace:   # anything may be left there
            self._memory(places.workspace, self._known(step.workspace.bytes))[:] = POISON
        arrays = {value: self._operand(op, name, places) for name, value in op.operands.items()}
        made: Any = op.evaluate(*op.arguments(arrays))
        several = cast("tuple[Array, ...]", made if isinstance(made, tuple) else (made,))
        for number, array in enumerate(several):
            content = packed(array, op.types[number])
            assert content.size == self._bytes(op.types[number]), f"{op.name} makes {array.shape}"
            self._memory(places.results[number], content.size)[:] = content

    def _operand(self, op: Op, name: str, places: _Places) -> Array:
        value = op.operands[name]
        if name in places.operands:
            return self._array(places.operands[name], value.type)
        if isinstance(value, Constant):   # which the kernel holds in its text
            return value.evaluate()
        return np.zeros(self._shape(value.type), value.dtype.numpy)   # only the shape of it is read

    def _array(self, place: Reference, of: TensorType) -> Array:
        return unpacked(self._memory(place, self._bytes(of)), of, self._shape(of))

    def _memory(self, place: Reference, count: int) -> Array:
        first = place["offset"]
        match place["at"]:
            case "weight":
                memory, first = self.weights, first + self.tensors[place["name"]]["offset"]
            case "io":
                memory = self.io[place["name"]]
            case _:
                memory = self.scratch
        assert first + count <= memory.size, f"bytes {first}..{first + count} lie beyond {place}"
        return memory[first : first + count]

    def _forget(self, buffer: Buffer) -> None:
        place = {"at": "scratch", "offset": self.planned.layout.offsets[buffer]}
        self._memory(place, self._known(buffer.bytes))[:] = POISON

    def _known(self, number: Expression) -> int:
        return evaluate(number, self.sizes)

    def _shape(self, of: TensorType) -> tuple[int, ...]:
        return tuple(types.evaluate(size, self.sizes) for size in of.shape)

    def _bytes(self, of: TensorType) -> int:
        return (int(np.prod(self._shape(of), dtype=np.int64)) * of.dtype.bits + 7) // 8


def _places(step: Step, entry: Mapping[str, Any]) -> _Places:
    """Where a launch or a product reads and writes."""
    if entry["kind"] == "matmul":
        operands = {role: entry[role] for role in ("x", "weight", "bias", "residual") if entry[role]}
        return _Places(operands, {0: entry["y"]}, entry["workspace"])
    assert step.launch
    pairs = [(a, r) for a, r in zip(step.launch.arguments, entry["arguments"], strict=True) if isinstance(a, Pointer)]
    operands = {a.name: r for a, r in pairs if a.kind == "operand"}
    results = {int(a.name): r for a, r in pairs if a.kind == "result"}
    results |= {number: operands[name] for number, name in step.launch.in_place.items()}
    return _Places(operands, results, next((r for a, r in pairs if a.kind == "workspace"), None))


def unpacked(content: Array, of: TensorType, shape: tuple[int, ...]) -> Array:
    """The tensor of some bytes, in memory of its own."""
    if of.dtype == i4:
        halves = np.stack([content & 15, content >> 4], 1).reshape(shape).astype(np.int8)
        return np.where(halves > 7, halves - 16, halves).astype(of.dtype.numpy)
    return content.view(of.dtype.numpy).reshape(shape).copy()
