"""Nodes that move data, and those that ask for or fill shapes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from trtc.frontend.onnx.known import completed, dtype_of, filled, uniform
from trtc.frontend.onnx.lift.folds import shape_of
from trtc.frontend.onnx.lift.registry import Lifted, Node, lift
from trtc.ir import ops as ir
from trtc.ir.op import Value
from trtc.ir.ops import broadcast, scalar
from trtc.ir.types import Dim, Size, i32


@lift("Shape")
def shape(node: Node) -> Lifted:
    sizes = node.shape(0)
    return shape_of(sizes[node.attributes.get("start") : node.attributes.get("end")])


@lift("Size")
def size(node: Node) -> Lifted:
    return shape_of((math.prod(node.shape(0)),)).reshape(())


@lift("Identity", "Dropout")
def identity(node: Node) -> Lifted | tuple[Lifted, ...]:
    """dropout does nothing when a model is used, and its mask is not read"""
    return node.lifted(0)


def reshaped(x: Value, sizes: tuple[Size, ...]) -> Value:
    """A reshape; none where nothing changes."""
    return x if x.shape == sizes else ir.Reshape(x, sizes)


@lift("Reshape")
def reshape(node: Node) -> Value:
    x, target = node.value(0), node.sizes(1)
    if node.attributes.get("allowzero") and 0 in target:
        raise ValueError("allowzero makes an empty tensor")
    return reshaped(x, completed(target, x.shape))


@lift("Flatten")
def flatten(node: Node) -> Value:
    x, axis = node.value(0), int(node.attributes.get("axis", 1))
    axis = axis + x.type.rank if axis < 0 else axis
    return reshaped(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


@lift("Unsqueeze")
def unsqueeze(node: Node) -> Value:
    x, axes = node.value(0), node.numbers(1, "axes") or []
    rank = x.type.rank + len(axes)
    new = {node.axis(a, rank) for a in axes}
    left = iter(x.shape)
    return reshaped(x, tuple(1 if a in new else next(left) for a in range(rank)))


@lift("Squeeze")
def squeeze(node: Node) -> Value:
    x, axes = node.value(0), node.numbers(1, "axes")
    gone = {a for a, s in enumerate(x.shape) if s == 1} if axes is None else {node.axis(a, x.type.rank) for a in axes}
    return reshaped(x, tuple(s for a, s in enumerate(x.shape) if a not in gone))


@lift("Transpose")
def transpose(node: Node) -> Value:
    x = node.value(0)
    return ir.Transpose(x, tuple(node.attributes.get("perm", range(x.type.rank)[::-1])))


@lift("Expand")
def expand(node: Node) -> Value:
    x = node.value(0)
    sizes = broadcast(x.shape, node.sizes(1))
    return x if sizes == x.shape else ir.Broadcast(x, sizes)


@lift("Tile")
def tile(node: Node) -> Value:
    """each axis is repeated along one of its own, then joined with it"""
    x, repeats = node.value(0), node.sizes(1)
    if len(repeats) != x.type.rank:
        raise ValueError(f"repeats are {len(repeats)}, but the input has rank {x.type.rank}")
    pairs = list(zip(repeats, x.shape, strict=True))
    apart = tuple(size for _, s in pairs for size in (1, s))
    wide = tuple(size for pair in pairs for size in pair)
    return ir.Reshape(ir.Broadcast(ir.Reshape(x, apart), wide), tuple(r * s for r, s in pairs))


@lift("Concat")
def concat(node: Node) -> Value:
    parts = tuple(node.value(i) for i in range(len(node.inputs)))
    return ir.Concat(parts, node.axis(int(node.attributes["axis"]), parts[0].type.rank))


@lift("Split")
def split(node: Node) -> tuple[Lifted, ...]:
    x = node.value(0)
    axis = node.axis(int(node.attributes.get("axis", 0)), x.type.rank)
    whole = x.shape[axis]
    if not isinstance(whole, int):
        raise ValueError(f"axis {axis} has the symbolic size {whole}")
    part = -(-whole // node.outputs)
    sizes = node.numbers(1, "split") or [min(part, whole - part * i) for i in range(node.outputs)]
    if len(sizes) != node.outputs or sum(sizes) != whole:
        raise ValueError(f"parts of {sizes} do not add up to {whole}")
    return tuple(ir.Slice(x, axis, sum(sizes[:i]), n) for i, n in enumerate(sizes))


@lift("ConstantOfShape")
def constant_of_shape(node: Node) -> Value:
    given: Any = node.attributes.get("value")
    number = np.float32(0) if given is None else np.asarray(given.values).reshape(-1)[0]
    return filled(number.item(), dtype_of(np.asarray(number)), node.sizes(0))


@lift("Range")
def range_(node: Node) -> Value:
    """start + the integers below limit - start"""
    start, limit, step = (node.known(i).item() for i in range(3))
    if step != 1 or not isinstance(start, int | Dim) or not isinstance(limit, int | Dim):
        raise ValueError("it must be of integers, one by one")
    count = ir.Iota(limit - start)
    return count if start == 0 else ir.Add(count, node.value(0))


@lift("Trilu")
def trilu(node: Node) -> Value:
    """x where column - row is at least k (at most k: lower), else 0"""
    x = node.value(0)
    k = node.known(1).item() if node.given(1) else 0
    if x.type.rank < 2 or not isinstance(k, int):
        raise ValueError(f"its input has rank {x.type.rank}, and k is {k}")
    rows, columns = x.shape[-2:]
    row: Value = ir.Reshape(ir.Iota(rows), (rows, 1))
    row = ir.Add(row, scalar(k, i32)) if k else row
    column = ir.Iota(columns)
    kept = ir.LessEqual(row, column) if node.attributes.get("upper", 1) else ir.LessEqual(column, row)
    return ir.Where(kept, x, scalar(0, x.dtype))


@lift("CumSum")
def cumsum(node: Node) -> Value:
    """of one number throughout: its multiples"""
    x, axis = node.value(0), node.known(1).item()
    number = uniform(x)
    if number is None or node.attributes.get("exclusive") or node.attributes.get("reverse"):
        raise ValueError("it is a sum over what the model is given")
    axis = node.axis(int(axis), x.type.rank)
    after = x.type.rank - axis - 1
    count = ir.Reshape(ir.Add(ir.Iota(x.shape[axis]), scalar(1, i32)), (x.shape[axis], *(1,) * after))
    made = ir.Mul(count if x.dtype == i32 else ir.Cast(count, x.dtype), scalar(number, x.dtype))
    return ir.Broadcast(made, x.shape)
