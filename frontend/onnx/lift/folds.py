"""What shapes are computed with, on known elements: in NumPy, symbolic sizes as objects."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from trtc.frontend.onnx.known import MOST, Unknown, completed, divided, sign, sizes_of
from trtc.frontend.onnx.lift.registry import Node, fold, unknown
from trtc.ir.op import Array
from trtc.ir.types import Size

NUMPY: dict[int, Any] = {
    1: np.float32, 2: np.uint8, 3: np.int8, 5: np.int16, 6: np.int32, 7: np.int64, 9: np.bool_, 10: np.float16,
    11: np.float64,
}   # fmt: skip
"""TensorProto.DataType, of what shapes are cast to and from."""
ARITHMETIC: dict[str, Callable[..., Any]] = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply}
FLOATS: dict[str, Callable[..., Any]] = {
    "Sqrt": np.sqrt, "Reciprocal": np.reciprocal, "Pow": np.power, "Floor": np.floor, "Ceil": np.ceil, "Abs": np.abs,
    "Exp": np.exp, "Log": np.log, "Not": np.logical_not, "And": np.logical_and, "Or": np.logical_or, "Min": np.minimum,
    "Max": np.maximum, "Mod": np.mod, "Cos": np.cos, "Sin": np.sin,
}   # fmt: skip
COMPARED: dict[str, Callable[[Any], Any]] = {
    "Equal": lambda s: s == 0, "Less": lambda s: s < 0, "LessOrEqual": lambda s: s <= 0, "Greater": lambda s: s > 0,
    "GreaterOrEqual": lambda s: s >= 0,
}   # fmt: skip


def _small(*shapes: tuple[int, ...]) -> None:
    if math.prod(np.broadcast_shapes(*shapes)) > MOST:
        raise Unknown


@fold(*ARITHMETIC)
def arithmetic(node: Node, a: Array, b: Array) -> Any:
    _small(a.shape, b.shape)
    if object in (a.dtype, b.dtype):
        a, b = a.astype(object), b.astype(object)
    return ARITHMETIC[node.kind](a, b)


@fold(*FLOATS)
def floats(node: Node, *arrays: Array) -> Any:
    unknown(*arrays)
    _small(*(a.shape for a in arrays))
    formula = FLOATS[node.kind]
    if node.kind in ("Min", "Max"):
        made = arrays[0]
        for array in arrays[1:]:
            made = formula(made, array)
        return made
    made = np.asarray(formula(*arrays))
    return made.astype(arrays[0].dtype) if node.kind == "Pow" else made


@fold("Neg")
def neg(_: Node, x: Array) -> Any:
    return x * -1 if x.dtype == object else np.negative(x)


@fold("Div")
def div(_: Node, a: Array, b: Array) -> Any:
    _small(a.shape, b.shape)
    if a.dtype.kind == "f":
        return a / b
    return np.vectorize(divided, otypes=[object])(a.astype(object), b.astype(object))


@fold(*COMPARED)
def compare(node: Node, a: Array, b: Array) -> Any:
    _small(a.shape, b.shape)
    holds = COMPARED[node.kind]
    if a.dtype.kind == "f" or b.dtype.kind == "f":
        return holds(np.sign(np.subtract(a, b)))

    def decided(x: Size, y: Size) -> bool:
        return holds(sign(x - y))

    if a.dtype == bool:
        a, b = a.astype(np.int64), b.astype(np.int64)
    return np.vectorize(decided, otypes=[bool])(a.astype(object), b.astype(object))


@fold("Where")
def where(_: Node, condition: Array, a: Array, b: Array) -> Any:
    _small(condition.shape, a.shape, b.shape)
    return np.where(condition.astype(bool), a, b)


@fold("Cast")
def cast(node: Node, x: Array) -> Any:
    to = int(node.attributes["to"])
    if to not in NUMPY:
        raise Unknown
    if x.dtype == object and to in (6, 7):
        return x
    unknown(x)
    return np.asarray(x, NUMPY[to])


@fold("Range")
def range_(_: Node, start: Array, limit: Array, delta: Array) -> Any:
    unknown(start, limit, delta)
    first, last, step = start.item(), limit.item(), delta.item()
    if step == 0:
        raise ValueError("the step is 0")
    if abs((last - first) / step) > MOST:
        raise Unknown
    return np.asarray(np.arange(first, last, step), start.dtype)


@fold("ConstantOfShape")
def constant_of_shape(node: Node, shape: Array) -> Any:
    unknown(shape)
    sizes = [int(n) for n in shape.reshape(-1)]
    if min(sizes, default=1) < 0:
        raise ValueError(f"a shape is {sizes}, but sizes must not be negative")
    if math.prod(sizes) > MOST:
        raise Unknown
    return np.full(sizes, _fill(node))


def _fill(node: Node) -> Any:
    given = node.attributes.get("value")
    return np.float32(0) if given is None else np.asarray(given.values).reshape(-1)[0]


@fold("Identity", "Dropout")
def identity(_: Node, x: Array, *rest: Array) -> Any:
    return x


@fold("Reshape")
def reshape(_: Node, x: Array, shape: Array) -> Any:
    return x.reshape([s for s in completed(sizes_of(shape), x.shape) if isinstance(s, int)])


@fold("Flatten")
def flatten(node: Node, x: Array) -> Any:
    axis = int(node.attributes.get("axis", 1))
    return x.reshape(math.prod(x.shape[:axis]), -1)


@fold("Unsqueeze")
def unsqueeze(node: Node, x: Array, *_: Array) -> Any:
    axes = node.numbers(1, "axes") or []
    return np.expand_dims(x, tuple(axes))


@fold("Squeeze")
def squeeze(node: Node, x: Array, *_: Array) -> Any:
    axes = node.numbers(1, "axes")
    return np.squeeze(x, None if axes is None else tuple(axes))


@fold("Transpose")
def transpose(node: Node, x: Array) -> Any:
    return x.transpose(node.attributes.get("perm"))


@fold("Concat")
def concat(node: Node, *parts: Array) -> Any:
    if any(p.dtype == object for p in parts):
        parts = tuple(p.astype(object) for p in parts)
    return np.concatenate(parts, int(node.attributes["axis"]))


@fold("Gather")
def gather(node: Node, x: Array, indices: Array) -> Any:
    unknown(indices)
    _small((*x.shape, *indices.shape))
    return np.take(x, indices.astype(np.int64), int(node.attributes.get("axis", 0)))


@fold("Expand")
def expand(_: Node, x: Array, shape: Array) -> Any:
    unknown(shape)
    sizes = [int(n) for n in shape.reshape(-1)]
    _small(x.shape, tuple(sizes))
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(sizes)))


@fold("Slice")
def slice_(node: Node, x: Array, *_: Array) -> Any:
    starts, ends = node.numbers(1, "starts"), node.numbers(2, "ends")
    if starts is None or ends is None or len(starts) != len(ends):
        raise ValueError("starts and ends differ in number")
    axes = node.numbers(3, "axes") or list(range(len(starts)))
    steps = node.numbers(4, "steps") or [1] * len(starts)
    index: list[Any] = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        end = None if step < 0 and end < -x.shape[axis] else end
        index[node.axis(axis, x.ndim)] = slice(start, end, step)
    return x[tuple(index)]


@fold("ReduceProd")
def reduce_prod(node: Node, x: Array, *_: Array) -> Any:
    axes = node.numbers(1, "axes")
    return np.prod(x, None if axes is None else tuple(axes), keepdims=bool(node.attributes.get("keepdims", 1)))


def shape_of(shape: tuple[Size, ...]) -> Array:
    """A shape as a vector."""
    made = np.empty(len(shape), object)
    made[:] = shape
    return made
