"""Integers of attention's scores as sums of coordinates: how positions and masks are compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from trtc.ir.op import Value
from trtc.ir.ops import Add, And, Broadcast, Constant, Iota, Less, LessEqual, Reshape, SizeOf, Sub
from trtc.ir.types import Size, i32

Axes: TypeAlias = tuple[int, ...]
"""For each axis of a value, the axis of the scores that it lies along."""
Sum: TypeAlias = Mapping["str | Value", Size]
"""Factors of ``key`` and ``token`` (coordinates of a score), of values i32[B], and a ``number``; zeros are left out."""
Known: TypeAlias = "dict[tuple[Value, Axes], Sum | None]"


@dataclass(frozen=True)
class Scores:
    """The shape of the scores: [batch, ..., tokens, keys] of a rank."""

    rank: int
    batch: Size
    tokens: Size
    keys: Size

    def axes(self, value: Value) -> Axes:
        """The axes of a value that broadcasts to the scores."""
        return tuple(range(self.rank - value.type.rank, self.rank))


def plus(a: Sum, b: Sum, factor: int = 1) -> Sum:
    """``a + factor * b``."""
    total = {term: a.get(term, 0) + b.get(term, 0) * factor for term in {**a, **b}}
    return {term: size for term, size in total.items() if size != 0}


def number(size: Size) -> Sum:
    """A sum that is the same everywhere."""
    return {"number": size} if size != 0 else {}


def conditions(value: Value, axes: Axes) -> Iterator[tuple[Value, Axes]]:
    """The conditions that a mask is the conjunction of."""
    seen: set[tuple[Value, Axes]] = set()
    left = [(value, axes)]
    while left:
        value, axes = left.pop()
        if (value, axes) in seen:
            continue
        seen.add((value, axes))
        match value:
            case And(a, b):
                left += [(b, _aligned(b, axes)), (a, _aligned(a, axes))]
            case Reshape(x) | Broadcast(x) if (inner := before(value, x, axes)) is not None:
                left.append((x, inner))
            case _:
                yield value, axes


def excess(condition: Value, axes: Axes, scores: Scores) -> Sum | None:
    """The sum that is at least 0 exactly where a comparison holds; None where it compares something else."""
    if not isinstance(condition, Less | LessEqual):
        return None
    a, b = (sum_of(x, _aligned(x, axes), scores) for x in (condition.a, condition.b))
    if a is None or b is None:
        return None
    return plus(plus(b, a, -1), number(-1 if isinstance(condition, Less) else 0))


def sum_of(value: Value, axes: Axes, scores: Scores, known: Known | None = None) -> Sum | None:
    """What integers along these axes of the scores add up to; None where they are no such sum.

    Args:
        known: sums found already: values may be read many times.
    """
    known = {} if known is None else known
    if (value, axes) not in known:
        known[value, axes] = _sum_anew(value, axes, scores, known)
    return known[value, axes]


def _sum_anew(value: Value, axes: Axes, scores: Scores, known: Known) -> Sum | None:
    match value:
        case Iota(size):
            name, whole = {scores.rank - 1: ("key", scores.keys), scores.rank - 2: ("token", scores.tokens)}.get(
                axes[0], ("", 0)
            )
            return {} if size == 1 else {name: 1} if size == whole else None
        case Constant((one,)):
            return number(int(one))
        case SizeOf(x, axis):
            return number(x.shape[axis])
        case Add(a, b) | Sub(a, b):
            left, right = (sum_of(x, _aligned(x, axes), scores, known) for x in (a, b))
            sign = 1 if isinstance(value, Add) else -1
            return None if left is None or right is None else plus(left, right, sign)
        case Reshape(x) | Broadcast(x) if (inner := before(value, x, axes)) is not None:
            return sum_of(x, inner, scores, known)
        case _:
            along = [(size, axis) for size, axis in zip(value.shape, axes, strict=True) if size != 1]
            by_sequence = along == ([(scores.batch, 0)] if scores.batch != 1 else [])
            return {value: 1} if by_sequence and value.dtype == i32 else None


def _aligned(value: Value, axes: Axes) -> Axes:
    """The axes of an operand, which broadcasts to what has these axes."""
    return axes[len(axes) - value.type.rank :]


def before(value: Reshape | Broadcast, x: Value, axes: Axes) -> Axes | None:
    """The axes of what is broadcast, or of what a reshape adds axes of size 1 to, or drops them from."""
    if isinstance(value, Broadcast):
        return _aligned(x, axes)
    along = [(size, axis) for size, axis in zip(value.shape, axes, strict=True) if size != 1]
    if [size for size, _ in along] != [size for size in x.shape if size != 1]:
        return None
    left = iter(along)
    return tuple(0 if size == 1 else next(left)[1] for size in x.shape)
