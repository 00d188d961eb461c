"""Adding layers to a network: named, kept alive, and checked one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from trtc.backend.tensorrt.bindings import dtype_of
from trtc.backend.tensorrt.diagnose import Diagnostics
from trtc.backend.tensorrt.weak_types import WeakTypes
from trtc.ir.op import Array, Op
from trtc.ir.types import DTYPES, DType

BY_NUMPY = {d.numpy: d for d in DTYPES.values()}


class Layers:
    """The layers of one network.

    Args:
        trt: TensorRT's Python module.
        network: its ``INetworkDefinition``, empty; strongly typed where the version has such networks.
    """

    def __init__(self, trt: Any, network: Any, diagnostics: Diagnostics) -> None:
        self.trt, self.network, self.diagnostics = trt, network, diagnostics
        self.types = WeakTypes(trt)
        self.op: Op | None = None            # the op under way,
        self.place = ""                      # and the name of its layer
        self.origins: Mapping[Op, str] = {}  # what the plan itself says of each op's layers
        self.arrays: dict[str, Array] = {}   # of every constant layer by name: TensorRT reads them until it has built
        self._taken: Counter[str] = Counter()

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
        for index, tensor in (inputs or {}).items():
            layer.set_input(index, tensor)
            self.diagnostics.check(self.op)
        says = {"name": self._name(part)}
        if self.op and self.op in self.origins and hasattr(layer, "metadata"):   # attention has it from 10.15
            says["metadata"] = self.origins[self.op]
        for key, value in {**says, **settings}.items():
            setattr(layer, key, value)
            self.diagnostics.check(self.op)
            if not _same(got := getattr(layer, key), value):
                said = f"{key} of the {kind} layer is {got}, but was set to {value}"
                raise self.diagnostics.refusal(self.op, said)
        if self.op:
            self.diagnostics.owners[layer.name] = self.op
        self.types.settle(layer, kind, arguments)
        self.diagnostics.check(self.op)
        return layer

    def add(self, kind: str, *arguments: Any, **settings: Any) -> Any:
        """Add a layer and give its first output."""
        return self.layer(kind, *arguments, **settings).get_output(0)

    def _name(self, part: str) -> str:
        name = f"{self.place}.{part}" if part else self.place
        self._taken[name] += 1
        return name if self._taken[name] == 1 else f"{name}#{self._taken[name]}"

    def constant(self, array: Array, part: str = "") -> Any:
        """A tensor of these numbers; the array is kept until the engine is built."""
        array = array if array.flags.c_contiguous else np.ascontiguousarray(array)
        layer = self.layer("constant", array.shape, self.as_weights(array), part=part)
        self.arrays[layer.name] = array
        return layer.get_output(0)

    def as_weights(self, array: Array) -> Any:
        """TensorRT's view of a contiguous array, which must live as long."""
        if self.types.strong:
            return self.trt.Weights(dtype_of(self.trt, BY_NUMPY[array.dtype]), array.ctypes.data, array.size)
        return self.trt.Weights(array)   # which takes arrays only, and copies none

    def number(self, value: float, dtype: DType, rank: int) -> Any:
        """A tensor of one number, of this rank."""
        return self.constant(np.full((1,) * rank, value, dtype.numpy), "number")


def _same(got: Any, want: Any) -> bool:
    """Whether a setting reads back as it was set; orders of axes read back padded to the greatest rank."""
    if isinstance(want, tuple):
        return tuple(got)[: len(cast("tuple[Any, ...]", want))] == want
    return got is want or got == want
