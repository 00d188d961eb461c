"""From a legal graph to a TensorRT network, an op at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from trtc.backend.tensorrt.bindings import dtype_of
from trtc.backend.tensorrt.diagnose import Diagnostics, refusal
from trtc.backend.tensorrt.lower import LOWERINGS
from trtc.backend.tensorrt.shapes import Shapes
from trtc.ir.graph import Graph
from trtc.ir.materialize import Stored
from trtc.ir.op import Array, Op, Value
from trtc.ir.ops import Constant, Input
from trtc.ir.types import DTYPES, Dim, DType, Size

BY_NUMPY = {d.numpy: d for d in DTYPES.values()}


class Emitter:
    """Adds layers to one network, each named by the ``loc`` and the kind of its op, and checks every one.

    Args:
        trt: TensorRT's Python module.
        network: its ``INetworkDefinition``, strongly typed and empty.
        graph: legal for the target.
    """

    def __init__(self, trt: Any, network: Any, graph: Graph, diagnostics: Diagnostics) -> None:
        self.trt, self.network, self.graph, self.diagnostics = trt, network, graph, diagnostics
        self.tensors: dict[Value, Any] = {}
        self.arrays: dict[str, Array] = {}   # of every constant layer by name: TensorRT reads them until it has built
        self.shapes = Shapes(self)
        self.op: Op | None = None            # the one under way,
        self.place = ""                      # and the name of its layer
        self._taken: Counter[str] = Counter()

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

    def stored(self, stored: Stored, array: Array) -> None:
        """Declare a constant that the plan stores."""
        readers = self.graph.users[stored.value]
        self.op, self.place = readers[0] if readers else None, stored.name
        self.tensors[stored.value] = self.constant(array)

    def body(self) -> None:
        """Lower every op that is no leaf and no constant, operands first."""
        for op in self.graph.ops:
            if isinstance(op, Input) or self.graph.is_constant(op):
                continue
            self.op, self.place = op, f"{op.loc}/{op.name}" if op.loc else op.name
            self.tensors[op] = tensor = LOWERINGS[type(op)](op, self)
            got, want = (tensor.dtype, len(tensor.shape)), (dtype_of(self.trt, op.dtype), op.type.rank)
            self.diagnostics.check(op)
            assert got == want, f"{op.name} at {op.loc} is {op.type}, but was lowered to {got}"

    def outputs(self) -> dict[str, str]:
        """Mark the graph's outputs; the name of each in the network, where an input's name is not free."""
        names = {key: f"{key}.next" if key in self.graph.aliases else key for key in self.graph.outputs}
        marked: set[Value] = set()
        for key, value in self.graph.outputs.items():
            self.op, self.place = cast("Op", value), key
            tensor = self[value]
            if isinstance(value, Input) or value in marked or self.graph.is_constant(value):
                tensor = self.add("identity", tensor, part="copy")
            marked.add(value)
            tensor.name = names[key]
            self.network.mark_output(tensor)
            self.diagnostics.check(self.op)
        return names

    def layer(
        self, kind: str, *arguments: Any, part: str = "", inputs: Mapping[int, Any] | None = None, **settings: Any
    ) -> Any:
        """Add a layer: ``network.add_<kind>(*arguments)``, with further inputs and settings, all read back.

        Args:
            part: what a layer that only helps the op's own does.
        Errors:
            BuildError: TensorRT refuses the layer, an input or a setting.
        """
        layer = getattr(self.network, f"add_{kind}")(*arguments)
        self.diagnostics.check(self.op)
        settings = {"name": self._name(part), **settings}
        for index, tensor in (inputs or {}).items():
            layer.set_input(index, tensor)
            self.diagnostics.check(self.op)
        for key, value in settings.items():
            setattr(layer, key, value)
            self.diagnostics.check(self.op)
            if not _same(getattr(layer, key), value):
                raise refusal(self.op, f"{key} of the {kind} layer is {getattr(layer, key)}, but was set to {value}")
        if self.op:
            self.diagnostics.owners[settings["name"]] = self.op
        return layer

    def add(self, kind: str, *arguments: Any, **settings: Any) -> Any:
        """Add a layer and give its first output."""
        return self.layer(kind, *arguments, **settings).get_output(0)

    def _name(self, part: str) -> str:
        name = f"{self.place}.{part}" if part else self.place
        self._taken[name] += 1
        return name if self._taken[name] == 1 else f"{name}#{self._taken[name]}"

    def __getitem__(self, value: Value) -> Any:
        """The tensor of a value."""
        if value not in self.tensors and isinstance(value, Constant):
            return self.constant(value.evaluate(), "number")
        return self.tensors[value]

    def constant(self, array: Array, part: str = "") -> Any:
        """A tensor of these numbers; the array is kept until the engine is built."""
        array = array if array.flags.c_contiguous else np.ascontiguousarray(array)
        weights = self.trt.Weights(dtype_of(self.trt, BY_NUMPY[array.dtype]), array.ctypes.data, array.size)
        layer = self.layer("constant", array.shape, weights, part=part)
        self.arrays[layer.name] = array
        return layer.get_output(0)

    def number(self, value: float, dtype: DType, rank: int) -> Any:
        """A tensor of one number, of this rank."""
        return self.constant(np.full((1,) * rank, value, dtype.numpy), "number")

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


def _same(got: Any, want: Any) -> bool:
    """Whether a setting reads back as it was set; orders of axes read back padded to the greatest rank."""
    return tuple(got)[: len(cast("tuple[Any, ...]", want))] == want if isinstance(want, tuple) else got is want or got == want
