"""Steps: what is launched, multiplied and copied in which order, and the buffers that it reads and writes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from trtc.backend.cuda.phase_rules import is_few
from trtc.backend.cuda.weights import Weights
from trtc.backend.kernels import Kernel, Launch, Pointer, find, product
from trtc.backend.kernels.ops import Dequantize, FusedLinear
from trtc.expressions import Expression
from trtc.ir.graph import Graph
from trtc.ir.op import Op, Result, Value
from trtc.ir.ops import Input, Linear, Reshape, Slice, Transpose
from trtc.ir.types import TensorType

ALIGNED = 16                       # bytes: what kernels load at once
LARGE, SMALL = 32 << 20, 1 << 20   # bytes of workspace of a product


@dataclass(frozen=True, eq=False)
class Buffer:
    """Bytes in one piece.

    Args:
        at: where: in the scratch memory; an input or output of the engine; a weight.
        name: of the input, the output or the weight.
        bytes: how many, by the sizes.
    """

    at: Literal["scratch", "io", "weight"]
    name: str
    bytes: Expression


@dataclass(frozen=True)
class Region:
    """A place in a buffer, from some byte on."""

    buffer: Buffer
    offset: int = 0


@dataclass(frozen=True)
class Step:
    """One launch, one product by cuBLASLt, or one copy.

    Args:
        op: what it computes; None of a copy.
        operands: by the op's names, those that it reads from memory; of a copy, ``from``.
        results: where they are written, in order; of a copy, where to.
        workspace: bytes for it alone.
        kernel, launch: of a launch.
    """

    kind: Literal["launch", "matmul", "copy"]
    loc: str
    op: Op | None
    operands: Mapping[str, Region]
    results: tuple[Region, ...]
    workspace: Buffer | None = None
    kernel: Kernel | None = None
    launch: Launch | None = None

    @property
    def buffers(self) -> list[Buffer]:
        """All that it reads or writes."""
        regions = [*self.operands.values(), *self.results]
        return [*(r.buffer for r in regions), *([self.workspace] if self.workspace else [])]


def nbytes(of: TensorType) -> Expression:
    """The bytes of a tensor."""
    return of.nbytes() if of.static else product(*of.shape, of.dtype.bits // 8)


def steps_of(graph: Graph, architecture: int, weights: Weights) -> list[Step]:
    """The steps of the graph of one phase, in an order that keeps what is updated in place."""
    return _Lowering(graph, architecture, weights).run()


@dataclass
class _Lowering:
    """The steps of one graph under way.

    Args:
        regions: of each value that there is so far.
        at: the number of each op, by which readers come later or not.
    """

    graph: Graph
    architecture: int
    weights: Weights
    steps: list[Step] = field(default_factory=list[Step])
    regions: dict[Value, Region] = field(default_factory=dict[Value, Region])

    def run(self) -> list[Step]:
        self.at = {op: number for number, op in enumerate(self.graph.ops)}
        self.homes = self._homes()
        for tensor in self.graph.inputs:
            self.regions[tensor] = Region(Buffer("io", tensor.key, nbytes(tensor.type)))
        for op in self.graph.ops:
            if not isinstance(op, Input | Result) and (not self.graph.is_constant(op) or isinstance(op, Dequantize)):
                self._lower(op)
        for name, value in self.graph.outputs.items():
            self._deliver(name, value)
        return self.steps

    def _homes(self) -> dict[Value, str]:
        """The values that are made where an output is wanted, by its name."""
        homes: dict[Value, str] = {}
        for name, value in self.graph.outputs.items():
            root = value
            while isinstance(root, Reshape):
                root = root.x
            if name not in self.graph.aliases and not isinstance(root, Input) and not self.graph.is_constant(root):
                homes.setdefault(root, name)
        return homes

    def _lower(self, op: Op) -> None:
        if view := self._view(op):
            self.regions[op] = view
        elif isinstance(op, Linear | FusedLinear) and is_product(op):
            self._product(op)
        else:
            self._launch(op)

    def _view(self, op: Op) -> Region | None:
        """Where an op's result lies already, as it only looks at its operand otherwise."""
        match op:
            case Reshape(x):
                return self._region(op, "x", x)
            case Transpose(x, axes) if _keeps_order(x.type, axes):
                return self._region(op, "x", x)
            case Slice(x, axis, start) if op not in self.homes and math.prod(x.shape[:axis]) == 1:
                rows = math.prod(x.shape[axis + 1 :])
                first = start * rows * x.dtype.bits // 8 if isinstance(rows, int) else 1
                if first % ALIGNED == 0:
                    base = self._region(op, "x", x)
                    return Region(base.buffer, base.offset + first)
            case _:
                pass
        return None

    def _region(self, op: Op, role: str, value: Value) -> Region:
        """Where an operand lies."""
        if value not in self.regions:
            name = self.weights.name(value, f"{op.loc or op.name}.{role}")
            self.regions[value] = Region(Buffer("weight", name, value.type.nbytes()))
        return self.regions[value]

    def _made(self, value: Value) -> Region:
        """Where a result will lie."""
        home = self.homes.get(value)
        self.regions[value] = Region(Buffer("io" if home else "scratch", home or "", nbytes(value.type)))
        return self.regions[value]

    def _product(self, op: Linear | FusedLinear) -> None:
        operands = {role: self._region(op, role, value) for role, value in op.operands.items()}
        space = LARGE if op.weight.type.numel() >= 1 << 20 else SMALL
        results = (self._made(op),)
        self.steps.append(Step("matmul", op.loc, op, operands, results, Buffer("scratch", "", space)))

    def _launch(self, op: Op) -> None:
        kernel = find(op, self.architecture)
        assert isinstance(kernel, Kernel), f"{op.name} at {op.loc}: {kernel}"
        launch = kernel.launch(op)
        pointed = [a.name for a in launch.arguments if isinstance(a, Pointer) and a.kind == "operand"]
        operands = {name: self._region(op, name, op.operands[name]) for name in dict.fromkeys(pointed)}
        for number, name in launch.in_place.items():
            operands[name] = self.regions[op.results[number]] = self._own(op, name, operands[name])
        results = tuple(
            self.regions[value] if number in launch.in_place else self._made(value)
            for number, value in enumerate(op.results)
        )
        workspace = None if launch.workspace_bytes == 0 else Buffer("scratch", "", launch.workspace_bytes)
        self.steps.append(Step("launch", op.loc, op, operands, results, workspace, kernel, launch))

    def _own(self, op: Op, name: str, region: Region) -> Region:
        """The region of an operand that the op may write to: a copy where somebody reads the old bytes later."""
        value = op.operands[name]
        if region.buffer.at != "weight" and not self._is_read_after(op, region.buffer):
            return region
        copy = Region(Buffer("scratch", "", nbytes(value.type)))
        self.steps.append(Step("copy", op.loc, None, {"from": region}, (copy,)))
        return copy

    def _is_read_after(self, op: Op, buffer: Buffer) -> bool:
        shown = [value for value, region in self.regions.items() if region.buffer is buffer]
        outputs = set(self.graph.outputs.values())
        later = any(self.at[user] > self.at[op] for value in shown for user in self.graph.users[value])
        return later or any(value in outputs for value in shown)

    def _deliver(self, name: str, value: Value) -> None:
        """Have an output where the runtime looks for it."""
        source = self._region_of_output(name, value)
        if source.buffer.at != "io" or source.buffer.name != name:
            target = Region(Buffer("io", name, nbytes(value.type)))
            self.steps.append(Step("copy", name, None, {"from": source}, (target,)))

    def _region_of_output(self, name: str, value: Value) -> Region:
        if value not in self.regions:
            stored = self.weights.name(value, f"{name}.constant")
            self.regions[value] = Region(Buffer("weight", stored, value.type.nbytes()))
        return self.regions[value]


def is_product(op: Linear | FusedLinear) -> bool:
    """Whether a dense layer is one for cuBLASLt: of many rows, with a bias and a residual at most."""
    plain = isinstance(op, Linear) or not (op.activation or op.softcap or op.scales or op.squares)
    return plain and not is_few(op.x)


def _keeps_order(of: TensorType, axes: tuple[int, ...]) -> bool:
    """Whether only axes of size 1 change places."""
    kept = [axis for axis in axes if of.shape[axis] != 1]
    return kept == sorted(kept)
