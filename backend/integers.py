"""Constant weights that are integers or 8-bit floats times a scale: which, of what type, and what each scale is for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from trtc.backend.ranges import range_of
from trtc.ir.errors import IRError
from trtc.ir.op import Value
from trtc.ir.ops import Broadcast, Cast, Concat, Constant, Mul, Reshape, Slice, Sub, Transpose, scalar
from trtc.ir.types import DType, f8e4m3, i4, i8, i32

LIMITS = {i4: 8, i8: 128}   # a type has the integers from -limit to limit - 1


@dataclass(frozen=True)
class Integers:
    """A matrix ``(q - zero) * scale``.

    Args:
        q: [R, C], of numbers that `dtype` has, if of a wider type.
        scale: float[r, c]: each number is of a block of R/r rows and C/c columns.
        zero: of integers [r, c], from -8 to 8 beside i4 and -128 to 128 beside i8; None where all are 0.
        dtype: i4, i8 or f8e4m3.
    """

    q: Value
    scale: Value
    zero: Value | None
    dtype: DType

    @property
    def sizes(self) -> tuple[int, int]:
        """R and C."""
        return _sizes(self.q)

    @property
    def block(self) -> tuple[int, int]:
        """Rows and columns that share a scale."""
        (rows, columns), (down, across) = _sizes(self.q), _sizes(self.scale)
        return rows // down, columns // across

    @property
    def by_row(self) -> Integers:
        """The same, with scales for each row."""
        each = self.block[0]
        return replace(self, scale=_repeated(self.scale, each), zero=self.zero and _repeated(self.zero, each))

    def moved(self, move: Callable[[Value], Value]) -> Integers:
        """The same elsewhere, where q, scale and zero move alike."""
        return Integers(move(self.q), move(self.scale), self.zero and move(self.zero), self.dtype)


def integers(weight: Value) -> Integers | None:
    """What a matrix is made of, if it is integers or 8-bit floats times scales."""
    return _product(weight) or _rows(weight)


def _product(weight: Value) -> Integers | None:
    """Of a product by scales, as it is or with rows for columns."""
    match weight:
        case Cast(x) if x.dtype.is_float:
            return _product(x)
        case Transpose(x, (1, 0)):
            part = _product(x)
            return part and part.moved(lambda x: Transpose(x, (1, 0)))
        case Mul() | Reshape() if weight.type.rank == 2:
            x: Value = weight
            while isinstance(x, Reshape | Cast):
                x = x.x
            return _scaled(x.a, x.b, _sizes(weight)) if isinstance(x, Mul) else None
        case _:
            return None


def _rows(weight: Value) -> Integers | None:
    """Of rows that are moved whole: what has numbers for each row moves as they do, whatever their rank."""
    rank = weight.type.rank
    if rank == 2 and (found := _product(weight)):
        return found.by_row
    match weight:
        case Cast(x) if x.dtype.is_float:
            return _rows(x)
        case Reshape(x) if x.type.rank > 1 and x.shape[-1] == weight.shape[-1]:
            part, (*rows, _) = _rows(x), weight.shape
            return part and part.moved(lambda x: Reshape(x, (*rows, x.shape[-1])))
        case Transpose(x, axes) if axes[-1] == rank - 1:
            part = _rows(x)
            return part and part.moved(lambda x: Transpose(x, axes))
        case Slice(x, axis, start, size) if axis < rank - 1:
            part = _rows(x)
            return part and part.moved(lambda x: Slice(x, axis, start, size))
        case Concat(parts, axis) if axis < rank - 1:
            return _joined([_rows(part) for part in parts], axis)
        case _:
            return None


def _joined(parts: list[Integers | None], axis: int) -> Integers | None:
    """Rows one behind the other, if all are stored alike."""
    found = [part for part in parts if part]
    zeros = tuple(part.zero for part in found if part.zero)
    kinds = {(p.scale.shape[-1], p.q.dtype, p.scale.dtype, p.dtype, p.zero and p.zero.dtype) for p in found}
    if len(found) < len(parts) or len(kinds) > 1:
        return None
    q, scale = (Concat(tuple(x), axis) for x in zip(*((p.q, p.scale) for p in found), strict=True))
    return Integers(q, scale, Concat(zeros, axis) if zeros else None, found[0].dtype)


def _scaled(a: Value, b: Value, sizes: tuple[int, int]) -> Integers | None:
    """Of a product over axes that are blocks and elements within them."""
    for x, scale in ((a, b), (b, a)):
        found = _stored(x)
        if found is None or not scale.dtype.is_float or x.type.rank != scale.type.rank:
            continue
        q, zero, dtype = found
        blocks = _blocks(_numbers(scale), _numbers(x), sizes)
        if blocks is None or (zero and zero.shape != scale.shape):
            return None
        return Integers(Reshape(q, sizes), Reshape(scale, blocks), zero and Reshape(zero, blocks), dtype)
    return None


def _blocks(of: tuple[int, ...], whole: tuple[int, ...], sizes: tuple[int, int]) -> tuple[int, int] | None:
    """How many blocks a matrix has, one below the other and side by side, if each has one number."""
    split = next((n for n in range(1, len(whole)) if math.prod(whole[:n]) == sizes[0]), None)
    if split:
        halves = [(of[:split], whole[:split]), (of[split:], whole[split:])]
        down, across = (math.prod(part) for part, _ in halves)
        return (down, across) if all(_in_runs(*half) for half in halves) else None
    count = math.prod(of)   # runs of elements, whichever rows they are in
    fits = _in_runs(of, whole) and count % sizes[0] == 0
    return (sizes[0], count // sizes[0]) if fits else None


def _in_runs(of: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    """Whether one number for each index of the first axes is one for each run of elements."""
    kept = next((n for n, (size, most) in enumerate(zip(of, whole, strict=True)) if size != most), len(of))
    return all(size == 1 for size in of[kept:])


def _stored(value: Value) -> tuple[Value, Value | None, DType] | None:
    """The q, zero and type of a float that is ``q - zero``."""
    match value:
        case Sub(x, zero) if (q := _whole(x)) is not None:
            if (number := _number(zero)) is not None:
                return _fitted(q, None, number)
            return _fitted(q, zeros, 0) if (zeros := _whole(zero)) is not None else None
        case Reshape(x) if (found := _stored(x)) and found[1] is None:
            return Reshape(found[0], value.shape), None, found[2]
        case Cast(x) if x.dtype == f8e4m3:
            return x, None, f8e4m3
        case _:
            return _fitted(q, None, 0) if (q := _whole(value)) is not None else None


def _whole(value: Value) -> Value | None:
    """The integers that a float is."""
    match value:
        case Cast(x):
            return (_whole(x) if x.dtype != f8e4m3 else None) if x.dtype.is_float else x
        case Reshape(x) if (found := _whole(x)) is not None:
            return Reshape(found, value.shape)
        case _:
            return None


def _fitted(q: Value, zeros: Value | None, number: int) -> tuple[Value, Value | None, DType] | None:
    """``q - number`` of the smallest type that has it, and its zeros: half of what q is of may be taken from both."""
    found, of_zeros = range_of(q), range_of(zeros) if zeros else (0, 0)
    if found is None or of_zeros is None:
        return None
    low, high = found
    for dtype, limit in LIMITS.items():
        less = number + (limit if zeros and low >= 0 else 0)
        within = low - less >= -limit and high - less < limit
        if within and -limit <= of_zeros[0] - less and of_zeros[1] - less <= limit:
            return _less(q, less), zeros and _less(zeros, less), dtype
    return None


def _less(x: Value, number: int) -> Value:
    if not number:
        return x
    low, high = range_of(x) or (0, 1 << 31)
    to = i8 if low - number >= -128 and high < 128 else i32   # the smaller, as matrices are made at once
    return Sub(Cast(x, to), scalar(number, to))


def _number(value: Value) -> int | None:
    """The integer that a constant of one element is."""
    match value:
        case Constant((number,)):
            return int(number) if number == int(number) else None
        case Cast(x) | Reshape(x):
            return _number(x)
        case _:
            return None


def _repeated(x: Value, each: int) -> Value:
    """Each row so many times."""
    down, across = _sizes(x)
    if each == 1:
        return x
    return Reshape(Broadcast(Reshape(x, (down, 1, across)), (down, each, across)), (down * each, across))


def _sizes(of: Value) -> tuple[int, int]:
    rows, columns = _numbers(of)
    return rows, columns


def _numbers(of: Value) -> tuple[int, ...]:
    found = tuple(size for size in of.shape if isinstance(size, int))
    if len(found) < of.type.rank:
        raise IRError(f"{of.type} is no constant matrix")
    return found
