"""Constant weights that are integers times a scale: which integers, of how many bits, and what each scale is for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trtc.ir.errors import IRError
from trtc.ir.op import Value
from trtc.ir.ops import Cast, Concat, Constant, Mul, Reshape, Slice, Sub, Transpose, Unpack, scalar
from trtc.ir.types import Size, i4, i8, i32


@dataclass(frozen=True)
class Integers:
    """A matrix ``q * scale``.

    Args:
        q: of integers [R, C].
        scale: float[r, c]: each number is of a block of R/r rows and C/c columns.
        bits: 4 or 8: what q fits into.
    """

    q: Value
    scale: Value
    bits: int

    @property
    def sizes(self) -> tuple[int, int]:
        """R and C."""
        return _sizes(self.q)

    @property
    def block(self) -> tuple[int, int]:
        """Rows and columns that share a scale."""
        (rows, columns), (down, across) = _sizes(self.q), _sizes(self.scale)
        return rows // down, columns // across


def integers(weight: Value) -> Integers | None:
    """What a matrix is made of, if it is integers times a scale."""
    match weight:
        case Cast(x) if x.dtype.is_float:
            return integers(x)
        case Mul(a, b):
            return _scaled(a, b, (weight.shape[0], weight.shape[-1])) if weight.type.rank == 2 else None
        case Reshape(Mul(a, b)) if weight.type.rank == 2:
            return _scaled(a, b, (weight.shape[0], weight.shape[1]))
        case Transpose(x, (1, 0)):
            part = integers(x)
            return part and Integers(Transpose(part.q, (1, 0)), Transpose(part.scale, (1, 0)), part.bits)
        case Slice(x, 0, start, size):
            part = integers(x)
            if part is None or part.scale.shape[0] != x.shape[0]:
                return None
            return Integers(Slice(part.q, 0, start, size), Slice(part.scale, 0, start, size), part.bits)
        case Concat(parts, 0):
            return _joined([integers(part) for part in parts])
        case _:
            return None


def _joined(parts: list[Integers | None]) -> Integers | None:
    """Matrices one below the other, if each row has scales of its own."""
    found = [p for p in parts if p and p.scale.shape[0] == p.q.shape[0]]
    if len(found) < len(parts) or len({(p.scale.shape[1], p.q.dtype, p.scale.dtype, p.bits) for p in found}) > 1:
        return None
    return Integers(Concat(tuple(p.q for p in found), 0), Concat(tuple(p.scale for p in found), 0), found[0].bits)


def _scaled(a: Value, b: Value, shape: tuple[Size, ...]) -> Integers | None:
    """Of a product over axes that are blocks and elements within them."""
    for q, scale in ((a, b), (b, a)):
        whole = _whole(q)
        if whole is None or not scale.dtype.is_float or q.type.rank != scale.type.rank:
            continue
        split = _split(q.shape, shape[0])
        if split is None:
            return None
        down, across = (math.prod(part) for part in (scale.shape[:split], scale.shape[split:]))
        if not _blocks(scale.shape[:split], q.shape[:split]) or not _blocks(scale.shape[split:], q.shape[split:]):
            return None
        return Integers(Reshape(whole[0], shape), Reshape(scale, (down, across)), whole[1])
    return None


def _blocks(of: tuple[Size, ...], whole: tuple[Size, ...]) -> bool:
    """Whether one number for each index of the first axes is one for each block of elements."""
    kept = sum(1 for _ in _leading(of, whole))
    return all(size == 1 for size in of[kept:])


def _leading(of: tuple[Size, ...], whole: tuple[Size, ...]) -> list[Size]:
    """The first axes that are as long as the whole's."""
    found: list[Size] = []
    for size, most in zip(of, whole, strict=True):
        if size != most:
            break
        found.append(size)
    return found


def _split(shape: tuple[Size, ...], rows: Size) -> int | None:
    """How many of the first axes are the rows."""
    return next((n for n in range(1, len(shape)) if math.prod(shape[:n]) == rows), None)


def _whole(value: Value) -> tuple[Value, int] | None:
    """The integers that a value is, and their bits."""
    match value:
        case Cast(x) if not x.dtype.is_float and (bits := _bits(x)):
            return x, bits
        case Sub(Cast(x), zero) if (number := _number(zero)) is not None:
            bits = _bits_of_fields(x)
            if bits and number == 1 << (bits - 1):
                return Sub(Cast(x, i32), scalar(number, i32)), bits
        case _:
            pass
    return None


def _number(value: Value) -> int | None:
    """The integer that a constant of one element is."""
    match value:
        case Constant((number,)):
            return int(number) if number == int(number) else None
        case Cast(x) | Reshape(x):
            return _number(x)
        case _:
            return None


def _bits(x: Value) -> int:
    """The bits of signed integers, 4 or 8; 0 if they have none of these."""
    fields = _fields(x)
    if fields:
        return fields.bits if fields.signed and fields.bits in (4, 8) else 0
    return 8 if x.dtype == i8 else 4 if x.dtype == i4 else 0


def _bits_of_fields(x: Value) -> int:
    """The bits of unsigned integers that were packed."""
    fields = _fields(x)
    return fields.bits if fields and not fields.signed and fields.bits in (4, 8) else 0


def _fields(x: Value) -> Unpack | None:
    """What unpacks integers, beneath what moves them."""
    while isinstance(x, Reshape | Transpose | Slice):
        x = x.x
    return x if isinstance(x, Unpack) else None


def _sizes(of: Value) -> tuple[int, int]:
    first, second = of.shape
    if not isinstance(first, int) or not isinstance(second, int):
        raise IRError(f"{of.type} is no constant matrix")
    return first, second
