"""Leaves: what a graph starts from."""

from __future__ import annotations

import numpy as np

from trtc.ir.op import Array, Op, Value, concrete, require
from trtc.ir.types import DType, Size, TensorType, i32


class Input(Op, name="input"):
    """A tensor given at run time, by name."""

    key: str
    of: TensorType

    def infer(self) -> TensorType:
        return self.of


class Weight(Op, name="weight"):
    """A tensor of the checkpoint, by its key there; its bytes never enter the IR."""

    key: str
    of: TensorType

    def infer(self) -> TensorType:
        require(self.of.static, f"weight {self.key} is {self.of}, but the sizes of a weight are numbers")
        return self.of


class Constant(Op, name="constant"):
    """A small literal: one number that fills the type, or every element in row-major order."""

    values: tuple[float, ...]
    of: TensorType

    def infer(self) -> TensorType:
        require(self.of.static, f"the type is {self.of}, but the sizes of a constant are numbers")
        count = len(self.values)
        require(count in (1, self.of.numel()), f"{count} values are given, but {self.of} has {self.of.numel()}")
        low, high = self.of.dtype.span
        for value in self.values if not self.of.dtype.is_float else ():
            fits = low <= value <= high and value == int(value)
            require(fits, f"{value} is given, but {self.of.dtype} has no such number")
        return self.of

    def evaluate(self) -> Array:
        shape, exact = concrete(*self.shape), np.float64 if self.of.dtype.is_float else np.int64
        flat = np.array(self.values, exact).astype(self.of.dtype.numpy)
        return np.full(shape, flat[0]) if len(flat) == 1 else flat.reshape(shape)


def scalar(value: float, dtype: DType) -> Constant:
    """The constant of rank 0 that holds this number."""
    return Constant((value,), TensorType(dtype, ()))


class Iota(Op, name="iota"):
    """The integers ``0, 1, ..., size - 1``: i32[size]."""

    size: Size

    def infer(self) -> TensorType:
        return TensorType(i32, (self.size,))

    def evaluate(self) -> Array:
        return np.arange(*concrete(self.size), dtype=np.int32)


class SizeOf(Op, name="size_of"):
    """The number of elements along one axis: i32[].

    Operands:
        x: any tensor; only its shape is read.
    """

    x: Value
    axis: int

    def infer(self) -> TensorType:
        require(0 <= self.axis < self.x.type.rank, f"x has no axis {self.axis}")
        return TensorType(i32, ())

    def evaluate(self, x: Array) -> Array:
        return np.array(x.shape[self.axis], np.int32)
