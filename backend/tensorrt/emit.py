"""From a legal graph to a TensorRT network, an op at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from trtc.backend.tensorrt.bindings import dtype_of
from trtc.backend.tensorrt.diagnose import Diagnostics
from trtc.backend.tensorrt.layers import Layers
from trtc.backend.tensorrt.lower import LOWERINGS, plugin
from trtc.backend.tensorrt.origins import origins
from trtc.backend.tensorrt.shapes import Shapes
from trtc.ir.graph import Graph
from trtc.ir.materialize import Stored
from trtc.ir.op import Array, Op, Result, Value
from trtc.ir.ops import Constant, Input
from trtc.ir.types import Dim, Size


class Emitter(Layers):
    """Adds the layers of a graph, each named by the ``loc`` and the kind of its op.

    Args:
        graph: legal for the target.
        architecture: that kernels are compiled for, such as 90; 0 where there are none.
    """

    def __init__(
        self, trt: Any, network: Any, diagnostics: Diagnostics, graph: Graph, architecture: int = 0
    ) -> None:
        super().__init__(trt, network, diagnostics)
        self.graph, self.origins, self.architecture = graph, origins(graph), architecture
        self.tensors: dict[Value, Any] = {}
        self.shapes = Shapes(self)

    def inputs(self) -> None:
        """Declare the graph's inputs, symbolic sizes by name."""
        for op in self.graph.inputs:
            shape = tuple(s if isinstance(s, int) else -1 for s in op.shape)
            self.op, tensor = op, self.network.add_input(op.key, dtype_of(self.trt, op.dtype), shape)
            self.diagnostics.check(op)
            for axis, size in enumerate(op.shape):
                if isinstance(size, Dim):
                    tensor.set_dimension_name(axis, str(size))
            self.diagnostics.check(op)
            self.tensors[op] = tensor
            self.types[tensor] = dtype_of(self.trt, op.dtype)
            self.shapes.declare(op.shape, tensor)

    def stored(self, stored: Stored, array: Array) -> None:
        """Declare a constant that the plan stores."""
        readers = self.graph.users[stored.value]
        self.op, self.place = readers[0] if readers else None, stored.name
        self.tensors[stored.value] = self.constant(array)

    def body(self) -> None:
        """Lower every op that is no leaf and no constant, operands first."""
        for op in self.graph.ops:
            if isinstance(op, Input | Result) or self.graph.is_constant(op):
                continue
            self.op, self.place = op, f"{op.loc}/{op.name}" if op.loc else op.name
            self.tensors[op] = tensor = LOWERINGS.get(type(op), plugin.plugin)(op, self)
            got, want = self._typed(tensor), (dtype_of(self.trt, op.dtype), op.type.rank)
            assert got == want, f"{op.name} at {op.loc or '?'} is {op.type}, but was lowered to {got}"

    def _typed(self, tensor: Any) -> tuple[Any, int]:
        """TensorRT's element type and rank of a tensor."""
        try:
            got = self.types[tensor], len(tensor.shape)   # only now are shapes inferred, and refused
        except RuntimeError:
            self.diagnostics.check(self.op)
            raise
        self.diagnostics.check(self.op)
        return got

    def outputs(self, names: Iterable[str]) -> None:
        """Mark the graph's outputs, in order, under these names."""
        taken = {self.tensors[op] for op in self.graph.inputs}
        for name, value in zip(names, self.graph.outputs.values(), strict=True):
            self.op, self.place = cast("Op", value), name
            tensor = self[value]
            if tensor in taken or self.graph.is_constant(value):
                tensor = self.add("identity", tensor, part="copy")
            taken.add(tensor)
            tensor.name = name
            self.network.mark_output(tensor)
            self.types.output(tensor)   # which changes nothing before it is marked
            self.diagnostics.check(self.op)

    def __getitem__(self, value: Value) -> Any:
        """The tensor of a value."""
        if value not in self.tensors and isinstance(value, Constant):
            return self.constant(value.evaluate(), "number")
        return self.tensors[value]

    def lifted(self, value: Value, rank: int) -> Any:
        """The tensor with axes of size 1 in front, up to a rank: TensorRT broadcasts equal ranks only."""
        if value not in self.tensors and isinstance(value, Constant):
            return self.constant(value.evaluate().reshape((1,) * rank), "number")
        return self.reshape(self.tensors[value], value.shape, (1,) * (rank - len(value.shape)) + value.shape, "lift")

    def aligned(self, *values: Value) -> list[Any]:
        """The tensors of these values, lifted to the greatest rank among them."""
        rank = max(v.type.rank for v in values)
        return [self.lifted(v, rank) for v in values]

    def reshape(self, tensor: Any, have: tuple[Size, ...], want: tuple[Size, ...], part: str = "") -> Any:
        """The tensor in another shape of equal size."""
        if have == want:
            return tensor
        known = [s if isinstance(s, int) else 0 if have[i : i + 1] == (s,) else -1 for i, s in enumerate(want)]
        if known.count(-1) <= 1:
            return self.add("shuffle", tensor, part=part, reshape_dims=tuple(known))
        return self.add("shuffle", tensor, part=part, inputs={1: self.shapes.tensor(want)})
