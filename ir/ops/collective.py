"""Collectives: what ranks of a group compute together. Each rank has a graph of its own, with its own types."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from contextvars import ContextVar
from typing import TypeAlias

import numpy as np

from trtc.ir.errors import IRError
from trtc.ir.op import Array, Op, Value, require
from trtc.ir.ops.elementwise import wide
from trtc.ir.types import TensorType

Group: TypeAlias = tuple[int, ...]
Exchange: TypeAlias = Callable[[Group, Array], tuple[list[Array], int]]
"""Of a group and what this rank gives, what each rank of it gives, in its order, and this rank's place in it."""


def _alone(group: Group, x: Array) -> tuple[list[Array], int]:
    if len(group) > 1:
        ranks = ", ".join(map(str, group))
        raise IRError(f"ranks {ranks} compute together, but one is evaluated", "help: trtc.ir.ranks evaluates all")
    return [x], 0


_exchange: ContextVar[Exchange] = ContextVar("exchange", default=_alone)


@contextlib.contextmanager
def exchanging(exchange: Exchange) -> Generator[None]:
    """Say how ranks meet while ops are evaluated."""
    token = _exchange.set(exchange)
    try:
        yield
    finally:
        _exchange.reset(token)


def met(group: Group, x: Array) -> tuple[list[Array], int]:
    """What each rank of the group gives where this one gives x, and this one's place among them."""
    return _exchange.get()(group, x)


def summed(parts: list[Array]) -> Array:
    """The sum, in f32 of narrower floats."""
    return np.sum([wide(part) for part in parts], axis=0).astype(parts[0].dtype)


class Collective(Op):
    """One op that all ranks of a group run at the same time.

    Operands:
        x: float[...], of this rank.
    Attributes:
        group: the ranks, in order; each rank's graph names the group that it is in.
    """

    x: Value
    group: Group

    def infer(self) -> TensorType:
        require(self.x.dtype.is_float, f"x is {self.x.dtype}, but must be a float")
        fits = 0 < len(self.group) == len(set(self.group)) and min(self.group) >= 0
        require(fits, f"group is {list(self.group)}, but must be ranks, each once")
        return self.x.type

    def decompose(self) -> Value | None:
        """A group of one has nothing to exchange."""
        return self.x if len(self.group) == 1 else None


class AllReduce(Collective, name="all_reduce"):
    """The sum of what the ranks of a group have, on each of them.

        y = sum over r of x[r]

    Operands:
        x: float[...], of this rank.
    Attributes:
        group: the ranks, in order; each rank's graph names the group that it is in.
    Result:
        x's type. The sum is taken in f32.
    """

    def evaluate(self, x: Array) -> Array:
        return summed(met(self.group, x)[0])


class AllGather(Collective, name="all_gather"):
    """What the ranks of a group have, joined along one axis, on each of them.

        y = concat(x[0], x[1], ...)

    Operands:
        x: float[...], of this rank.
    Attributes:
        group: the ranks, in order; each rank's graph names the group that it is in.
        axis: along which they are joined.
    Result:
        float[...], the axis times as long as there are ranks.
    """

    axis: int = 0

    def infer(self) -> TensorType:
        of = super().infer()
        require(0 <= self.axis < of.rank, f"x has no axis {self.axis}")
        size = of.shape[self.axis] * len(self.group)
        return TensorType(of.dtype, (*of.shape[: self.axis], size, *of.shape[self.axis + 1 :]))

    def evaluate(self, x: Array) -> Array:
        return np.concatenate(met(self.group, x)[0], self.axis)


class ReduceScatter(Collective, name="reduce_scatter"):
    """Each rank's part, along one axis, of the sum of what the ranks of a group have.

        y[r] = split(sum over q of x[q])[r]

    Operands:
        x: float[...], of this rank.
    Attributes:
        group: the ranks, in order; each rank's graph names the group that it is in.
        axis: along which the sum is divided.
    Result:
        float[...], the axis divided by the number of ranks. The sum is taken in f32.
    """

    axis: int = 0

    def infer(self) -> TensorType:
        of, ranks = super().infer(), len(self.group)
        require(0 <= self.axis < of.rank, f"x has no axis {self.axis}")
        size = of.shape[self.axis]
        even = ranks == 1 or (isinstance(size, int) and size % ranks == 0)
        require(even, f"axis {self.axis} of x has {size} elements, which {ranks} ranks cannot share")
        share = size // ranks if isinstance(size, int) else size
        return TensorType(of.dtype, (*of.shape[: self.axis], share, *of.shape[self.axis + 1 :]))

    def evaluate(self, x: Array) -> Array:
        parts, place = met(self.group, x)
        return np.split(summed(parts), len(parts), self.axis)[place]
