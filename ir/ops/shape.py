"""Moving data: shapes, parts, and looking up."""

from __future__ import annotations

import math

import numpy as np

from trtc.ir.op import Array, Op, Value, concrete, require
from trtc.ir.ops.elementwise import broadcast, same_dtype
from trtc.ir.types import Size, TensorType


def product(sizes: tuple[Size, ...]) -> Size:
    """The number of elements of a shape."""
    return math.prod(sizes)


class Reshape(Op, name="reshape"):
    """The same elements, in row-major order, in another shape of equal size."""

    x: Value
    sizes: tuple[Size, ...]

    def infer(self) -> TensorType:
        have, want = product(self.x.shape), product(self.sizes)
        require(have == want, f"x has {have} elements, but the new shape has {want}")
        return TensorType(self.x.dtype, self.sizes)

    def evaluate(self, x: Array) -> Array:
        return x.reshape(concrete(*self.sizes))


class Broadcast(Op, name="broadcast"):
    """Repeat along axes of size 1, and along new leading ones, to a larger shape."""

    x: Value
    sizes: tuple[Size, ...]

    def infer(self) -> TensorType:
        fits = broadcast(self.x.shape, self.sizes) == self.sizes
        require(fits, "x does not broadcast to the new shape")
        return TensorType(self.x.dtype, self.sizes)

    def evaluate(self, x: Array) -> Array:
        return np.broadcast_to(x, concrete(*self.sizes)).copy()


class Transpose(Op, name="transpose"):
    """Axes in another order: axis i of the result is axis ``axes[i]`` of x."""

    x: Value
    axes: tuple[int, ...]

    def infer(self) -> TensorType:
        rank = self.x.type.rank
        require(sorted(self.axes) == list(range(rank)), f"axes {list(self.axes)} are not an order of 0..{rank - 1}")
        return TensorType(self.x.dtype, tuple(self.x.shape[a] for a in self.axes))

    def evaluate(self, x: Array) -> Array:
        return x.transpose(self.axes)


class Slice(Op, name="slice"):
    """``x[..., start : start + size, ...]`` along one axis of a known size."""

    x: Value
    axis: int
    start: int
    size: int

    def infer(self) -> TensorType:
        require(0 <= self.axis < self.x.type.rank, f"x has no axis {self.axis}")
        shape = list(self.x.shape)
        whole = shape[self.axis]
        require(
            isinstance(whole, int) and 0 <= self.start < self.start + self.size <= whole,
            f"elements {self.start}..{self.start + self.size} are outside axis {self.axis} of size {whole}",
        )
        shape[self.axis] = self.size
        return TensorType(self.x.dtype, tuple(shape))

    def evaluate(self, x: Array) -> Array:
        return x[(slice(None),) * self.axis + (slice(self.start, self.start + self.size),)]


class Concat(Op, name="concat"):
    """Join tensors along one axis, in order."""

    parts: tuple[Value, ...]
    axis: int

    def infer(self) -> TensorType:
        require(len(self.parts) > 0, "there are no parts to join")
        dtype, first = same_dtype(*self.parts), self.parts[0].shape
        require(0 <= self.axis < len(first), f"parts have no axis {self.axis}")
        for part in self.parts:
            same = _but(part.shape, self.axis) == _but(first, self.axis)
            require(same, f"parts {self.parts[0].type} and {part.type} differ beyond axis {self.axis}")
        joint = sum((p.shape[self.axis] for p in self.parts[1:]), start=first[self.axis])
        return TensorType(dtype, (*first[: self.axis], joint, *first[self.axis + 1 :]))

    def evaluate(self, parts: tuple[Array, ...]) -> Array:
        return np.concatenate(parts, self.axis)


def repeated(x: Value, axis: int, times: int) -> Value:
    """Each index of an axis of static size so many times, one behind the other, as ``np.repeat``."""
    if times == 1:
        return x
    before, count, behind = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
    apart, spread = ((*before, count, n, *behind) for n in (1, times))
    return Reshape(Broadcast(Reshape(x, apart), spread), (*before, count * times, *behind))


def _but(shape: tuple[Size, ...], axis: int) -> tuple[Size, ...]:
    return (*shape[:axis], *shape[axis + 1 :])


class Gather(Op, name="gather"):
    """Look up positions along one axis: ``y[b.., i.., k.., j..] = x[b.., i.., indices[b.., k..], j..]``.

    Operands:
        x: any[b.., i.., N, j..], where ``axis`` counts the sizes b and i.
        indices: int[b.., k..], each in 0..N.
    Attributes:
        axis: the axis of x that is looked up in.
        batch: how many leading axes x and indices share; at most ``axis``.
    """

    x: Value
    indices: Value
    axis: int = 0
    batch: int = 0

    def infer(self) -> TensorType:
        x, indices, axis, batch = self.x.shape, self.indices.shape, self.axis, self.batch
        require(self.indices.dtype.kind == "int", f"indices are {self.indices.dtype}, but must be integers")
        require(0 <= axis < len(x), f"x has no axis {axis}")
        require(0 <= batch <= min(axis, len(indices)), f"batch is {batch}, but must be in 0..{min(axis, len(indices))}")
        require(x[:batch] == indices[:batch], f"x and indices must share their first {batch} sizes")
        return TensorType(self.x.dtype, (*x[:axis], *indices[batch:], *x[axis + 1 :]))

    def evaluate(self, x: Array, indices: Array) -> Array:
        def look_up(x: Array, indices: Array, batch: int) -> Array:
            if batch:
                return np.stack([look_up(a, i, batch - 1) for a, i in zip(x, indices, strict=True)])
            return np.take(x, indices, self.axis - self.batch)

        size = x.shape[self.axis]
        for index in (indices.min(initial=0), indices.max(initial=0)):   # of a damaged file, say
            require(0 <= index < size, f"gather: an index is {index}, but must be in 0..{size - 1}")
        return look_up(x, indices, self.batch)
