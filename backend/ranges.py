"""What numbers an integer expression can be, by what it is made of."""

from __future__ import annotations

from itertools import product

from trtc.ir.op import Value
from trtc.ir.ops import (
    Add,
    Broadcast,
    Cast,
    Concat,
    Constant,
    Gather,
    Mul,
    Reshape,
    Slice,
    Sub,
    Transpose,
    Unpack,
    Where,
)
from trtc.ir.types import i4, i8, u8

Range = tuple[int, int]
NARROW = (i4, i8, u8)   # types that say something by themselves


def range_of(x: Value) -> Range | None:
    """The least and the greatest that an integer can be; None where its type has more than 8 bits and nothing says.

    >>> from trtc.ir.ops import Input, scalar
    >>> low = Unpack(Input("q", u8[2, 4]), 4)
    >>> range_of(low), range_of(Sub(Cast(low, i8), scalar(8, i8))), range_of(Mul(low, scalar(17, u8)))
    ((0, 15), (-8, 7), (0, 255))
    """
    found, whole = _found(x), x.dtype.span if x.dtype in NARROW else None
    if found and whole and not (whole[0] <= found[0] and found[1] <= whole[1]):
        return whole   # it may have wrapped around
    return found or whole


def _found(x: Value) -> Range | None:
    match x:
        case Constant(values) if not x.dtype.is_float:
            return min(map(int, values)), max(map(int, values))
        case Unpack(_, bits, signed):
            half = 1 << (bits - 1)
            return (-half, half - 1) if signed else (0, 2 * half - 1)
        case Reshape(y) | Transpose(y) | Slice(y) | Broadcast(y) | Gather(y):
            return range_of(y)
        case Cast(y) if not y.dtype.is_float:
            return range_of(y)
        case Concat(parts):
            return _joint(*parts)
        case Where(_, a, b):
            return _joint(a, b)
        case Add(a, b) | Sub(a, b) | Mul(a, b):
            return _computed(x, range_of(a), range_of(b))
        case _:
            return None


def _joint(*parts: Value) -> Range | None:
    """Of any of these."""
    found = [r for r in map(range_of, parts) if r]
    return (min(low for low, _ in found), max(high for _, high in found)) if len(found) == len(parts) else None


def _computed(op: Value, a: Range | None, b: Range | None) -> Range | None:
    """Of a sum, a difference or a product."""
    if a is None or b is None:
        return None
    each = [x + y if isinstance(op, Add) else x - y if isinstance(op, Sub) else x * y for x, y in product(a, b)]
    return min(each), max(each)
