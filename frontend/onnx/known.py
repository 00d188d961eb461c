"""Tensors whose elements are known when a model is imported: literals, and shapes with symbolic sizes in them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from trtc.ir.op import Array, Value
from trtc.ir.ops import Add, Broadcast, Cast, Concat, Constant, Mul, Reshape, SizeOf, scalar
from trtc.ir.types import DTYPES, Bounds, Dim, DType, Size, TensorType, f32, i32, interval

MOST = 1 << 12   # elements; larger tensors are weights
TERMS = 16       # of a size, and names in each
POSITIVE: Bounds = {"B": (1, 1 << 40), "S": (1, 1 << 40), "P": (0, 1 << 40)}
"""What a comparison of sizes may rely on: only a model's past may be empty."""


class Unknown(Exception):
    """The elements depend on what is known only at run time."""


def check_size(size: Size) -> None:
    """Refuse a size such as no model has, before products of it fill the memory."""
    terms = size.terms if isinstance(size, Dim) else (((), size),)
    if len(terms) > TERMS or any(len(names) > TERMS or abs(c) >= 1 << 62 for names, c in terms):
        raise ValueError("it makes a size such as no model has")


def known(elements: Any) -> Array:
    """The array in one form: integers as int64 where all are numbers, else objects."""
    array = np.asarray(elements)
    if array.size > MOST:
        raise Unknown
    for element in array.flat if array.dtype == object else ():
        check_size(cast("Size", element))
    if array.dtype == object and not any(isinstance(e, Dim) for e in array.flat):
        return array.astype(np.int64)
    return array.astype(np.int64) if array.dtype.kind in "iu" else array


def sizes_of(array: Array) -> tuple[Size, ...]:
    """The elements of a vector of integers or sizes."""
    if array.ndim > 1 or array.dtype.kind not in "iO":
        raise ValueError(f"a shape is {array.dtype} of rank {array.ndim}, but must be a vector of integers")
    return tuple(cast("list[Size]", array.reshape(-1).astype(object).tolist()))


def sign(size: Size) -> int:
    """-1, 0 or 1 for a size that is always below, equal to or above 0."""
    low, high = interval(size, POSITIVE)
    if low == high == 0:
        return 0
    if low > 0 or high < 0:
        return 1 if low > 0 else -1
    raise Unknown


def divided(size: Size, by: Size) -> Size:
    """A size that another divides without a rest."""
    if size == by:
        return 1
    if isinstance(by, int):
        if isinstance(size, int):
            if by == 0:
                raise ValueError("a size is divided by 0")
            return int(size / by) if abs(size) < 1 << 50 else size // by
        if by == 0 or any(c % by for _, c in size.terms):
            raise Unknown
        return _sum([(names, c // by) for names, c in size.terms])
    if isinstance(size, int) or len(by.terms) != 1:
        raise Unknown
    ((factors, number),) = by.terms
    quotient: list[tuple[tuple[str, ...], int]] = []
    for names, c in size.terms:
        left = Counter(names)
        left.subtract(factors)
        if c % number or min(left.values()) < 0:
            raise Unknown
        quotient.append((tuple(sorted(left.elements())), c // number))
    return _sum(quotient)


def _sum(terms: Sequence[tuple[tuple[str, ...], int]]) -> Size:
    total: Size = 0
    for names, c in terms:
        total = total + math.prod((Dim.named(n) for n in names), start=c)
    return total


def completed(target: Sequence[Size], x: Sequence[Size]) -> tuple[Size, ...]:
    """The shape of a reshape of x: a -1 is what is left, a 0 the size that x has there."""
    shape = [x[i] if size == 0 and i < len(x) else size for i, size in enumerate(target)]
    if -1 not in shape:
        return tuple(shape)
    have, want = list(x), [size for size in shape if size != -1]
    for size in list(want):
        if size in have:
            have.remove(size)
            want.remove(size)
    left = divided(math.prod(have), math.prod(want))
    if shape.count(-1) > 1:
        raise ValueError("a shape has more than one -1")
    return tuple(left if size == -1 else size for size in shape)


def dtype_of(array: Array) -> DType:
    """The element type in which an array enters the graph: integers count tokens and sizes, so 32 bits serve."""
    if array.dtype == object or array.dtype == np.int64:
        return i32
    if array.dtype == np.float64:
        return f32
    return next(d for d in DTYPES.values() if d.numpy == array.dtype)


def value_of(array: Array, sizes: dict[str, tuple[Value, int]]) -> Value:
    """The array as a value of the graph.

    Args:
        sizes: for each symbolic size, an input and axis that have it.
    """
    dtype = dtype_of(array)
    of = TensorType(dtype, array.shape)
    if array.dtype != object:
        values = tuple(float(e) if dtype.is_float else int(e) for e in array.flat)
        return Constant(values[:1] if len(set(map(repr, values))) == 1 else values, of)
    parts = [_number(cast("Size", size), sizes) for size in array.flat]
    if array.ndim == 0:
        return parts[0]
    return Reshape(Concat(tuple(Reshape(p, (1,)) for p in parts), 0), array.shape)


def _number(size: Size, sizes: dict[str, tuple[Value, int]]) -> Value:
    """i32[], the number that a size is at run time."""
    if isinstance(size, int):
        return scalar(size, i32)
    total: Value | None = None
    for names, c in size.terms:
        term: Value | None = scalar(c, i32) if c != 1 or not names else None
        for name in names:
            factor = SizeOf(*sizes[name])
            term = Mul(term, factor) if term else factor
        assert term
        total = Add(total, term) if total else term
    assert total
    return total


def uniform(value: Value) -> float | None:
    """The number that every element of a value is, where that is plain to see."""
    match value:
        case Constant((number,)):
            return number
        case Broadcast(x) | Reshape(x):
            return uniform(x)
        case Cast(x, to) if (number := uniform(x)) is not None:
            return float(np.array(number, x.dtype.numpy).astype(to.numpy))
        case _:
            return None


def filled(number: float, dtype: DType, shape: tuple[Size, ...]) -> Value:
    """A value of one number throughout."""
    return Broadcast(scalar(number, dtype), shape) if shape else scalar(number, dtype)
