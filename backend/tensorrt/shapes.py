"""Sizes that are known at run time, as tensors computed from the shapes of the network's inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from trtc.ir.types import Dim, Size

if TYPE_CHECKING:
    from trtc.backend.tensorrt.emit import Emitter


class Shapes:
    """Shape tensors, each made once."""

    def __init__(self, emit: Emitter) -> None:
        self.emit = emit
        self._made: dict[Size, Any] = {}

    def tensor(self, shape: tuple[Size, ...]) -> Any:
        """A shape as i64[rank]."""
        return self.emit.add("concatenation", [self.size(s) for s in shape], part="shape", axis=0)

    def size(self, size: Size) -> Any:
        """One size as i64[1]."""
        if size not in self._made:
            self._made[size] = self._compute(size)
        return self._made[size]

    def _compute(self, size: Size) -> Any:
        if isinstance(size, int):
            return self.emit.constant(np.array([size], np.int64), "size")
        elementwise = self.emit.trt.ElementWiseOperation
        total = None
        for monomial, coefficient in size.terms:
            factors = [self._named(name) if size == Dim.named(name) else self.size(Dim.named(name)) for name in monomial]
            if coefficient != 1 or not factors:
                factors.append(self.size(coefficient))
            term = factors[0]
            for factor in factors[1:]:
                term = self.emit.add("elementwise", term, factor, elementwise.PROD, part="size")
            total = term if total is None else self.emit.add("elementwise", total, term, elementwise.SUM, part="size")
        return total

    def _named(self, name: str) -> Any:
        """A size by its name, read where an input has it."""
        for op in self.emit.graph.inputs:
            if (size := Dim.named(name)) in op.shape:
                shape = self.emit.add("shape", self.emit[op], part="size")
                return self.emit.add("slice", shape, (op.shape.index(size),), (1,), (1,), part="size")
        raise AssertionError(f"no input of @{self.emit.graph.name} has the size {name} on an axis")
