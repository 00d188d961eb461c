"""Constant weights that are integers or 8-bit floats times a scale: which, of what type, and what each scale is for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from trtc.backend.ranges import range_of
from trtc.ir.errors import IRError
from trtc.ir.op import Value
from trtc.ir.ops import Add, Cast, Concat, Constant, Mul, Neg, Reshape, Slice, Sub, Transpose, repeated, scalar
from trtc.ir.types import DType, f8e4m3, i4, i8, i32


@dataclass(frozen=True)
class Integers:
    """A matrix ``(q - zero) * scale + offset``.

    Args:
        q: [R, C], of numbers that `dtype` has, if of a wider type.
        scale: float[r, c]: each number is of a block of R/r rows and C/c columns.
        zero: of integers [r, c], from -8 to 8 beside i4 and -128 to 128 beside i8; None where all are 0.
        offset: float[r, c], or None.
        dtype: i4, i8 or f8e4m3.
    """

    q: Value
    scale: Value
    zero: Value | None
    offset: Value | None
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
        zero, offset = (x and repeated(x, 0, each) for x in (self.zero, self.offset))
        return replace(self, scale=repeated(self.scale, 0, each), zero=zero, offset=offset)

    def moved(self, move: Callable[[Value], Value]) -> Integers:
        """The same elsewhere, where all of it moves alike."""
        zero, offset = (x and move(x) for x in (self.zero, self.offset))
        return Integers(move(self.q), move(self.scale), zero, offset, self.dtype)


def integers(weight: Value) -> Integers | None:
    """What a matrix is made of, if it is integers or 8-bit floats times scales."""
    return _product(weight) or _rows(weight)


def _product(weight: Value) -> Integers | None:
    """Of a product by scales and what is added to it, as it is or with rows for columns."""
    match weight:
        case Cast(x) if x.dtype.is_float:
            return _product(x)
        case Transpose(x, (1, 0)):
            part = _product(x)
            return part and part.moved(lambda x: Transpose(x, (1, 0)))
        case Mul() | Add() | Sub() | Reshape() if weight.type.rank == 2:
            x, sizes = _beneath(weight), _sizes(weight)
            match x:
                case Mul(a, b):
                    return _scaled(a, b, sizes)
                case Add(a, b) | Sub(a, b) if isinstance(product := _beneath(a), Mul):
                    return _shifted(_scaled(product.a, product.b, sizes), a, b, isinstance(x, Sub))
                case _:
                    return None
        case _:
            return None


def _beneath(x: Value) -> Value:
    """What a value is, in another shape or type."""
    while isinstance(x, Reshape | Cast):
        x = x.x
    return x


def _shifted(product: Integers | None, a: Value, b: Value, negative: bool) -> Integers | None:
    """A product with what is added to it, or subtracted from it, block by block."""
    if product is None or not b.dtype.is_float or a.type.rank != b.type.rank:
        return None
    blocks, each = _blocks(_numbers(b), _numbers(a), product.sizes), _numbers(product.scale)
    if blocks != each:
        return None
    offset = Reshape(Neg(b) if negative else b, each)
    return replace(product, offset=Add(product.offset, offset) if product.offset else offset)


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
    """Rows one behind the other, if all are stored alike, or can be."""
    found = _alike([part for part in parts if part])
    kinds = {(p.scale.shape[-1], p.dtype, *(x and x.dtype for x in (p.q, p.scale, p.zero, p.offset))) for p in found}
    if len(found) < len(parts) or len(kinds) > 1:
        return None
    each = zip(*((p.q, p.scale, p.zero, p.offset) for p in found), strict=True)
    q, scale, zero, offset = (Concat(kept, axis) if (kept := tuple(x for x in some if x)) else None for some in each)
    assert q and scale
    return Integers(q, scale, zero, offset, found[0].dtype)


def _alike(parts: list[Integers]) -> list[Integers]:
    """Each with as many scales a row and as many bits as any other, and with an offset where another has one."""
    most = max((_numbers(part.scale)[-1] for part in parts), default=0)
    shifted, mixed = any(part.offset for part in parts), len({(part.dtype, part.q.dtype) for part in parts}) > 1
    if any(most % _numbers(part.scale)[-1] or (mixed and part.dtype == f8e4m3) for part in parts):
        return parts
    found: list[Integers] = []
    for part in parts:
        none = Mul(part.scale, scalar(0, part.scale.dtype)) if shifted else None
        last, each = part.scale.type.rank - 1, most // _numbers(part.scale)[-1]
        zero, offset = (x and repeated(x, last, each) for x in (part.zero, part.offset or none))
        q, dtype = (Cast(part.q, i8), i8) if mixed else (part.q, part.dtype)
        found.append(Integers(q, repeated(part.scale, last, each), zero, offset, dtype))
    return found


def _scaled(a: Value, b: Value, sizes: tuple[int, int]) -> Integers | None:
    """Of a product over axes that are blocks and elements within them."""
    for x, scale in ((a, b), (b, a)):
        found = _stored(x)
        if found is None or not scale.dtype.is_float or x.type.rank != scale.type.rank:
            continue
        q, zero, rest, dtype = found
        blocks = _blocks(_numbers(scale), _numbers(x), sizes)
        if blocks is None or (zero and zero.shape != scale.shape):
            return None
        scale = Reshape(scale, blocks)
        offset = Mul(scale, scalar(rest, scale.dtype)) if rest else None
        return Integers(Reshape(q, sizes), scale, zero and Reshape(zero, blocks), offset, dtype)
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


class _Stored(NamedTuple):
    """Numbers ``q - zero + rest``."""

    q: Value
    zero: Value | None
    rest: int
    dtype: DType


def _stored(value: Value) -> _Stored | None:
    """What a float is, if it is integers or 8-bit floats."""
    match value:
        case Sub(x, zero) if (q := _whole(x)) is not None:
            if (number := _number(zero)) is not None:
                return _fitted(q, None, number)
            return _fitted(q, zeros, 0) if (zeros := _whole(zero)) is not None else None
        case Reshape(x) if (found := _stored(x)) and found.zero is None:
            return found._replace(q=Reshape(found.q, value.shape))
        case Cast(x) if x.dtype == f8e4m3:
            return _Stored(x, None, 0, f8e4m3)
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


def _fitted(q: Value, zeros: Value | None, number: int) -> _Stored | None:
    """``q - zeros - number`` of the smallest type that has q, of which half the range may be taken first."""
    found, of_zeros = range_of(q), range_of(zeros) if zeros else (0, 0)
    if found is None or of_zeros is None:
        return None
    low, high = (each - number for each in found)
    for dtype in (i4, i8):
        limit = -dtype.span[0]
        for half in (0, limit) if low >= 0 else (0,):
            fits = low - half >= -limit and high - half < limit
            if zeros is None and fits:
                return _Stored(_less(q, number + half), None, half, dtype)
            if zeros and fits and -limit <= of_zeros[0] - half and of_zeros[1] - half <= limit:
                return _Stored(_less(q, half), _less(zeros, half), 0, dtype)
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


def _sizes(of: Value) -> tuple[int, int]:
    rows, columns = _numbers(of)
    return rows, columns


def _numbers(of: Value) -> tuple[int, ...]:
    found = tuple(size for size in of.shape if isinstance(size, int))
    if len(found) < of.type.rank:
        raise IRError(f"{of.type} is no constant matrix")
    return found
