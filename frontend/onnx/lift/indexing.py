"""Nodes that look up: parts of tensors, by numbers or by indices."""

from __future__ import annotations

from trtc.frontend.onnx.known import Unknown, filled, sign, uniform
from trtc.frontend.onnx.lift.folds import shape_of
from trtc.frontend.onnx.lift.registry import Node, lift
from trtc.ir import ops as ir
from trtc.ir.op import Value
from trtc.ir.types import Size

FAR = 1 << 31   # an end beyond it stands for the end of the axis


@lift("Slice")
def slice_(node: Node) -> Value:
    x = node.value(0)
    starts, ends = _bounds(node, 1, "starts"), _bounds(node, 2, "ends")
    axes = node.numbers(3, "axes") or list(range(len(starts)))
    steps = node.numbers(4, "steps") or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step != 1:
            raise ValueError(f"the step is {step}, but must be 1")
        x = _part(x, node.axis(axis, x.type.rank), start, end, node)
    return x


def _bounds(node: Node, i: int, name: str) -> tuple[Size, ...]:
    return node.sizes(i) if node.given(i) else tuple(node.numbers(i, name) or ())


def _part(x: Value, axis: int, start: Size, end: Size, node: Node) -> Value:
    """x from start to end along an axis: a slice where all is numbers, else looked up one by one."""
    whole = x.shape[axis]
    start, end = _within(start, whole), _within(end, whole)
    if (start, end) == (0, whole):
        return x
    if isinstance(start, int) and isinstance(end, int) and isinstance(whole, int):
        return ir.Slice(x, axis, start, max(0, end - start))
    return looked_up(x, _from(start, end - start, node), axis)


def _within(bound: Size, whole: Size) -> Size:
    """A bound between 0 and the size of the axis."""
    if isinstance(bound, int) and bound >= FAR:
        return whole
    try:
        if sign(bound) < 0:
            bound = whole + bound
        if isinstance(bound, int) and isinstance(whole, int):
            return min(max(bound, 0), whole)
        return whole if sign(bound - whole) > 0 else bound
    except Unknown:
        return bound


def _from(start: Size, count: Size, node: Node) -> Value:
    """i32[count]: start, start + 1, ..."""
    places = ir.Iota(count)
    return places if start == 0 else ir.Add(places, node.enter(shape_of((start,)).reshape(())))


@lift("Gather")
def gather(node: Node) -> Value:
    x, indices = node.value(0), node.value(1)
    axis = node.axis(int(node.attributes.get("axis", 0)), x.type.rank)
    found = node.lifted(1)
    if not isinstance(found, Value) and found.size == 1 and isinstance(whole := x.shape[axis], int):
        number = int(found.item())
        part = ir.Slice(x, axis, number + whole if number < 0 else number, 1)
        return ir.Reshape(part, (*x.shape[:axis], *found.shape, *x.shape[axis + 1 :]))
    if not isinstance(found, Value) and (found.dtype == object or (found < 0).any()):
        raise ValueError("its indices count from the end")
    return looked_up(x, indices, axis)


def looked_up(x: Value, indices: Value, axis: int) -> Value:
    """Look-ups of what is the same throughout need no indices; those of tables are embeddings."""
    number = uniform(x)
    if number is not None:
        return filled(number, x.dtype, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))
    if axis == 0 and x.type.rank == 2 and x.dtype.is_float:
        return ir.Embedding(x, indices)
    match x:
        case ir.Compare(a, b):
            return type(x)(_behind(a, indices, axis, x), _behind(b, indices, axis, x))
        case ir.Iota():
            return indices
        case ir.Reshape(inner) if (kept := _axis_before(x, axis)) is not None:
            made = looked_up(inner, indices, kept)
            return ir.Reshape(made, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))
        case _:
            return ir.Gather(x, indices, axis)


def _behind(operand: Value, indices: Value, axis: int, whole: Value) -> Value:
    """What an operand of an element-wise op becomes when the result is looked up along an axis by a vector."""
    own = axis - (whole.type.rank - operand.type.rank)
    if indices.type.rank != 1:
        return ir.Gather(ir.Broadcast(operand, whole.shape), indices, axis)
    return operand if own < 0 or operand.shape[own] == 1 else looked_up(operand, indices, own)


def _axis_before(x: ir.Reshape, axis: int) -> int | None:
    """The axis of a reshape's operand that this one is, where only axes of size 1 come or go."""
    before, after = x.x.shape, x.sizes
    if [s for s in before if s != 1] != [s for s in after if s != 1] or after[axis] == 1:
        return None
    place = len([s for s in after[:axis] if s != 1])
    return [a for a, s in enumerate(before) if s != 1][place]


@lift("GatherND")
def gather_nd(node: Node) -> Value:
    """of what is the same throughout, such as the mask of a run whose tokens all count: that, in the result's shape"""
    x, indices = node.value(0), node.value(1)
    number, batch, depth = uniform(x), int(node.attributes.get("batch_dims", 0)), indices.shape[-1]
    if number is None or not isinstance(depth, int):
        raise ValueError("it looks up by coordinates")
    return filled(number, x.dtype, (*indices.shape[:-1], *x.shape[batch + depth :]))


@lift("ScatterND")
def scatter_nd(node: Node) -> Value:
    """of everything: the updates themselves"""
    x, updates = node.value(0), node.value(2)
    if not _is_grid(node.value(1), x.shape) or node.attributes.get("reduction", "none") != "none":
        raise ValueError("it writes to a part of its input, or to elements in another order")
    return updates if updates.shape == x.shape else ir.Reshape(updates, x.shape)


def _is_grid(indices: Value, shape: tuple[Size, ...]) -> bool:
    """Whether indices[i, j, ...] are (i, j, ...), for every element of this shape."""
    if indices.shape != (*shape, len(shape)) or not isinstance(indices, ir.Concat):
        return False
    parts = indices.parts
    return len(parts) == len(shape) and all(_counts(p, axis, shape) for axis, p in enumerate(parts))


def _counts(part: Value, axis: int, shape: tuple[Size, ...]) -> bool:
    """Whether a value[i, j, ..., 1] is its own index along an axis."""
    if shape[axis] == 1:
        return uniform(part) == 0
    value, along = part, axis
    while True:
        match value:
            case ir.Broadcast(x):
                along, value = along - (value.type.rank - x.type.rank), x
                if along < 0 or x.shape[along] != shape[axis]:
                    return False
            case ir.Reshape(x) if (before := _axis_before(value, along)) is not None:
                along, value = before, x
            case ir.Iota(size):
                return size == shape[axis]
            case _:
                return False
