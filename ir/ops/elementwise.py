"""Element-wise arithmetic, comparison and choice, with NumPy broadcasting."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from trtc.ir.op import Array, Op, Value, require
from trtc.ir.types import DType, Size, TensorType, bool_

Formula = Callable[..., Any]


def broadcast(*shapes: tuple[Size, ...]) -> tuple[Size, ...]:
    """The NumPy broadcast of some shapes; a symbolic size matches itself or 1."""
    rank = max(map(len, shapes))
    sizes: list[Size] = []
    for axis, column in enumerate(zip(*((1,) * (rank - len(s)) + s for s in shapes), strict=True)):
        size = next((s for s in column if s != 1), 1)
        other = next((s for s in column if s not in (1, size)), size)
        require(other == size, f"axis {axis} has sizes {size} and {other}, which do not broadcast")
        sizes.append(size)
    return tuple(sizes)


def same_dtype(*values: Value) -> DType:
    """The one element type of these values, or an error that shows two."""
    for value in values[1:]:
        require(value.dtype == values[0].dtype, f"operands have different dtypes, {values[0].dtype} and {value.dtype}")
    return values[0].dtype


def same_float(*values: Value) -> DType:
    """The one element type of these values, which must be of floats."""
    dtype = same_dtype(*values)
    require(dtype.is_float, f"operands are {dtype}, but must be floats")
    return dtype


def wide(x: Array) -> Array:
    """The array in at least f32, in which sums and transcendental functions are taken."""
    return x.astype(np.float32) if x.dtype.itemsize < 4 else x


def _pow(a: Array, b: Array) -> Array:
    return np.power(wide(a), wide(b))


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def erf(x: Array) -> Array:
    """The error function of each element; NumPy has none."""
    return np.vectorize(math.erf, otypes=[x.dtype])(x)


class Binary(Op):
    a: Value
    b: Value
    formula: ClassVar[Formula]

    def infer(self) -> TensorType:
        dtype = same_dtype(self.a, self.b)
        require(dtype != bool_, "operands are bool, but must be numbers")
        return TensorType(dtype, broadcast(self.a.shape, self.b.shape))

    def evaluate(self, a: Array, b: Array) -> Array:
        return type(self).formula(a, b).astype(a.dtype, copy=False)


class Add(Binary, name="add"):
    """``a + b``."""

    formula = np.add


class Sub(Binary, name="sub"):
    """``a - b``."""

    formula = np.subtract


class Mul(Binary, name="mul"):
    """``a * b``."""

    formula = np.multiply


class Div(Binary, name="div"):
    """``a / b``, of floats."""

    formula = np.divide

    def infer(self) -> TensorType:
        same_float(self.a, self.b)
        return super().infer()


class Pow(Binary, name="pow"):
    """``a ** b``, of floats."""

    formula = staticmethod(_pow)

    def infer(self) -> TensorType:
        same_float(self.a, self.b)
        return super().infer()


class Maximum(Binary, name="maximum"):
    """The greater of a and b."""

    formula = np.maximum


class Minimum(Binary, name="minimum"):
    """The lesser of a and b."""

    formula = np.minimum


class Compare(Op):
    a: Value
    b: Value
    formula: ClassVar[Formula]

    def infer(self) -> TensorType:
        same_dtype(self.a, self.b)
        return TensorType(bool_, broadcast(self.a.shape, self.b.shape))

    def evaluate(self, a: Array, b: Array) -> Array:
        return type(self).formula(a, b)


class Less(Compare, name="less"):
    """``a < b``, as bool."""

    formula = np.less


class LessEqual(Compare, name="less_equal"):
    """``a <= b``, as bool."""

    formula = np.less_equal


class And(Op, name="and"):
    """Both of two bools."""

    a: Value
    b: Value

    def infer(self) -> TensorType:
        both = self.a.dtype == self.b.dtype == bool_
        require(both, f"operands are {self.a.dtype} and {self.b.dtype}, but must be bool")
        return TensorType(bool_, broadcast(self.a.shape, self.b.shape))

    def evaluate(self, a: Array, b: Array) -> Array:
        return np.logical_and(a, b)


class Where(Op, name="where"):
    """``a`` where the condition holds, else ``b``."""

    condition: Value
    a: Value
    b: Value

    def infer(self) -> TensorType:
        require(self.condition.dtype == bool_, f"condition is {self.condition.dtype}, but must be bool")
        dtype = same_dtype(self.a, self.b)
        return TensorType(dtype, broadcast(self.condition.shape, self.a.shape, self.b.shape))

    def evaluate(self, condition: Array, a: Array, b: Array) -> Array:
        return np.where(condition, a, b)


class Cast(Op, name="cast"):
    """The same numbers in another element type, rounded to nearest even (to integers: towards zero)."""

    x: Value
    to: DType

    def infer(self) -> TensorType:
        return TensorType(self.to, self.x.shape)

    def evaluate(self, x: Array) -> Array:
        return x.astype(self.to.numpy)


class Unary(Op):
    x: Value
    formula: ClassVar[Formula]

    def infer(self) -> TensorType:
        require(self.x.dtype.is_float, f"x is {self.x.dtype}, but must be a float")
        return self.x.type

    def evaluate(self, x: Array) -> Array:
        return type(self).formula(wide(x)).astype(x.dtype, copy=False)


class Neg(Unary, name="neg"):
    """``-x``."""

    formula = np.negative


class Exp(Unary, name="exp"):
    """``e ** x``."""

    formula = np.exp


class Sqrt(Unary, name="sqrt"):
    """The square root of x >= 0."""

    formula = np.sqrt


class Reciprocal(Unary, name="reciprocal"):
    """``1 / x``."""

    formula = np.reciprocal


class Tanh(Unary, name="tanh"):
    """The hyperbolic tangent."""

    formula = np.tanh


class Sigmoid(Unary, name="sigmoid"):
    """``1 / (1 + e ** -x)``."""

    formula = staticmethod(_sigmoid)


class Erf(Unary, name="erf"):
    """The error function ``2 / sqrt(pi) * integral of e ** -t^2 from 0 to x``."""

    formula = staticmethod(erf)


class Cos(Unary, name="cos"):
    """The cosine of x radians."""

    formula = np.cos


class Sin(Unary, name="sin"):
    """The sine of x radians."""

    formula = np.sin
