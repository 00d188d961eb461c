"""Sizes that are known at run time, as tensors computed from the shapes of the network's inputs."""

from __future__ import annotations

from typing import Any

import numpy as np

from trtc.backend.tensorrt.layers import Layers
from trtc.ir.types import Dim, Size


class Shapes:
    """Shape tensors, each made once."""

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        self._sources: dict[Size, tuple[Any, int]] = {}   # for each size, an input and its axis of that size
        self._made: dict[Size, Any] = {}

    def declare(self, shape: tuple[Size, ...], tensor: Any) -> None:
        """Make known an input, whose sizes can be read."""
        for axis, size in enumerate(shape):
            self._sources.setdefault(size, (tensor, axis))

    def tensor(self, shape: tuple[Size, ...]) -> Any:
        """A shape as int[rank]."""
        return self._layers.add("concatenation", [self.size(s) for s in shape], part="shape", axis=0)

    def size(self, size: Size) -> Any:
        """One size as int[1]: i64 where the version has it, else i32."""
        if size not in self._made:
            self._made[size] = self._make(size)
        return self._made[size]

    def _make(self, size: Size) -> Any:
        if isinstance(size, int):
            return self._layers.constant(np.array([size], np.int64 if self._layers.types.strong else np.int32), "size")
        if size in self._sources:
            tensor, axis = self._sources[size]
            shape = self._layers.add("shape", tensor, part="size")
            return self._layers.add("slice", shape, (axis,), (1,), (1,), part="size")
        kinds = self._layers.trt.ElementWiseOperation
        terms = [([*map(Dim.named, m)], [c] if c != 1 or not m else []) for m, c in size.terms]
        return self._joined(kinds.SUM, [self._joined(kinds.PROD, [self.size(s) for s in n + c]) for n, c in terms])

    def _joined(self, kind: Any, tensors: list[Any]) -> Any:
        """The sum or product of sizes."""
        total = tensors[0]
        for tensor in tensors[1:]:
            total = self._layers.add("elementwise", total, tensor, kind, part="size")
        return total
