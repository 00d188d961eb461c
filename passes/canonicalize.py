"""One form for what can be written in several."""

from __future__ import annotations

from trtc.ir.graph import Graph
from trtc.ir.op import Value
from trtc.ir.ops import (
    Add,
    Attention,
    Broadcast,
    Cast,
    Concat,
    Constant,
    Div,
    Linear,
    Mul,
    Neg,
    PackedAttention,
    Reciprocal,
    Reshape,
    SizeOf,
    Slice,
    Sub,
    Transpose,
    scalar,
)
from trtc.passes.base import Pass
from trtc.passes.rewrite import apply


class Canonicalize(Pass, name="canonicalize"):
    """Drop what changes nothing, and join what moves data twice: slices, concats, transposes, reshapes, casts."""

    def run(self, graph: Graph) -> Graph:
        return apply(graph, RULES, self.name)


def slice_of_all(op: Slice) -> Value | None:
    """slice(x, everything)  ->  x"""
    return op.x if op.type == op.x.type else None


def slice_of_slice(op: Slice) -> Value | None:
    """slice(slice(x, a), b)  ->  slice(x, a + b)"""
    match op.x:
        case Slice(x, axis, start, _) if axis == op.axis:
            return Slice(x, axis, start + op.start, op.size)
        case _:
            return None


def slice_of_concat(op: Slice) -> Value | None:
    """slice(concat(a, b), within a)  ->  slice(a);  over a border  ->  concat of slices"""
    if not isinstance(op.x, Concat) or op.x.axis != op.axis:
        return None
    parts: list[Value] = []
    start, stop, at = op.start, op.start + op.size, 0
    for part in op.x.parts:
        size = part.shape[op.axis]
        if not isinstance(size, int):
            return None
        low, high = max(start, at) - at, min(stop, at + size) - at
        if low < high:
            parts.append(part if (low, high) == (0, size) else Slice(part, op.axis, low, high - low))
        at += size
    return parts[0] if len(parts) == 1 else Concat(tuple(parts), op.axis)


def slice_beside_concat(op: Slice, graph: Graph) -> Value | None:
    """slice(concat(a, b) along another axis)  ->  concat(slice(a), slice(b)), of weights: no more is read than kept"""
    match op.x:
        case Concat(parts, axis) if axis != op.axis and graph.is_constant(op):
            return Concat(tuple(Slice(part, op.axis, op.start, op.size) for part in parts), axis)
        case _:
            return None


def slice_of_constant(op: Slice) -> Value | None:
    """slice(one number everywhere)  ->  the number in the smaller shape"""
    match op.x:
        case Constant((value,), _):
            return Constant((value,), op.type)
        case _:
            return None


def concat_of_one(op: Concat) -> Value | None:
    """concat(x)  ->  x"""
    return op.parts[0] if len(op.parts) == 1 else None


def concat_of_concats(op: Concat) -> Value | None:
    """concat(concat(a, b), c)  ->  concat(a, b, c)"""
    flat: list[Value] = []
    for part in op.parts:
        flat += part.parts if isinstance(part, Concat) and part.axis == op.axis else [part]
    return Concat(tuple(flat), op.axis) if len(flat) > len(op.parts) else None


def concat_of_casts(op: Concat, graph: Graph) -> Value | None:
    """concat(cast(a), cast(b))  ->  cast(concat(a, b)), of weights that widen: what is stored stays narrow"""
    narrow = [part.x for part in op.parts if isinstance(part, Cast) and part.x.dtype.bits < op.dtype.bits]
    of_one_type = len(narrow) == len(op.parts) and len({x.dtype for x in narrow}) == 1
    return Cast(Concat(tuple(narrow), op.axis), op.dtype) if of_one_type and graph.is_constant(op) else None


def concat_across(op: Concat, graph: Graph) -> Value | None:
    """concat(concat(a, b), concat(c, d)) along two axes  ->  concat(concat(a, c), concat(b, d)), of weights

    The outer axis of the result is the earlier one, so that its parts lie in memory one after the other.
    """
    if not isinstance(first := op.parts[0], Concat) or first.axis >= op.axis or not graph.is_constant(op):
        return None
    rows = [part.parts for part in op.parts if isinstance(part, Concat) and part.axis == first.axis]
    cuts = {tuple(part.shape[first.axis] for part in row) for row in rows}
    if len(rows) < len(op.parts) or len(cuts) > 1:
        return None
    return Concat(tuple(Concat(column, op.axis) for column in zip(*rows, strict=True)), first.axis)


def cast_of_concat(op: Cast, graph: Graph) -> Value | None:
    """cast(concat(a, b))  ->  concat(cast(a), cast(b)), of weights that do not widen: what is joined is narrow"""
    match op.x:
        case Concat(parts, axis) if op.x.dtype.bits >= op.to.bits and graph.is_constant(op):
            return Concat(tuple(Cast(part, op.to) for part in parts), axis)
        case _:
            return None


def slice_of_cast(op: Slice, graph: Graph) -> Value | None:
    """slice(cast(x))  ->  cast(slice(x)), of weights that widen"""
    match op.x:
        case Cast(x, to) if x.dtype.bits < to.bits and graph.is_constant(op):
            return Cast(Slice(x, op.axis, op.start, op.size), to)
        case _:
            return None


def concat_of_slices(op: Concat) -> Value | None:
    """concat(x[:a], x[a:])  ->  x"""
    joined: list[Value] = []
    for part in op.parts:
        match (joined[-1] if joined else None, part):
            case (Slice(x, a, start, size), Slice(y, b, next_start, more)) if (
                x is y and a == b == op.axis and start + size == next_start
            ):
                joined[-1] = Slice(x, a, start, size + more)
            case _:
                joined.append(part)
    if len(joined) == len(op.parts):
        return None
    return joined[0] if len(joined) == 1 else Concat(tuple(joined), op.axis)


def transpose_of_nothing(op: Transpose) -> Value | None:
    """transpose(x, in order)  ->  x"""
    return op.x if list(op.axes) == sorted(op.axes) else None


def transpose_of_transpose(op: Transpose) -> Value | None:
    """transpose(transpose(x))  ->  transpose(x) or x"""
    match op.x:
        case Transpose(x, inner):
            return Transpose(x, tuple(inner[a] for a in op.axes))
        case _:
            return None


def reshape_of_nothing(op: Reshape) -> Value | None:
    """reshape(x, its own shape)  ->  x"""
    return op.x if op.type == op.x.type else None


def reshape_of_reshape(op: Reshape) -> Value | None:
    """reshape(reshape(x))  ->  reshape(x)"""
    return Reshape(op.x.x, op.sizes) if isinstance(op.x, Reshape) else None


def transpose_of_matrices(op: Reshape) -> Value | None:
    """reshape(transpose(reshape(x to matrices)))  ->  transpose(x), of the last two axes"""
    match op.x:
        case Transpose(Reshape(x) as matrices, axes) if x.type.rank >= 2 and axes == _swapped(matrices.type.rank):
            rows, columns = x.shape[-2:]
            same = matrices.sizes[-2:] == (rows, columns) and op.sizes == (*x.shape[:-2], columns, rows)
            return Transpose(x, _swapped(x.type.rank)) if same else None
        case _:
            return None


def _swapped(rank: int) -> tuple[int, ...]:
    return (*range(rank - 2), rank - 1, rank - 2)


def linear_of_rows(op: Reshape) -> Value | None:
    """reshape(linear(reshape(x to rows)))  ->  linear(x)"""
    match op.x:
        case Linear(Reshape(x), weight, bias) if op.sizes == (*x.shape[:-1], weight.shape[0]) and (
            x.type.rank >= 2 and x.shape[-1] == weight.shape[1]
        ):
            return Linear(x, weight, bias)
        case _:
            return None


def bias_of_linear(op: Add, graph: Graph) -> Value | None:
    """linear(x, w) + b  ->  linear(x, w, b), of weights"""
    for y, b in ((op.a, op.b), (op.b, op.a)):
        bare = isinstance(y, Linear) and y.bias is None and len(graph.users[y]) == 1 and y not in graph.outputs.values()
        if isinstance(y, Linear) and bare and b.shape == y.shape[-1:] and graph.is_constant(b):
            return Linear(y.x, y.weight, b, loc=y.loc)
    return None


def times_reciprocal(op: Mul) -> Value | None:
    """x * (1 / y)  ->  x / y"""
    match op:
        case Mul(x, Reciprocal(y)) | Mul(Reciprocal(y), x):
            return Div(x, y)
        case _:
            return None


def broadcast_of_nothing(op: Broadcast) -> Value | None:
    """broadcast(x, its own shape)  ->  x"""
    return op.x if op.type == op.x.type else None


def cast_of_nothing(op: Cast) -> Value | None:
    """cast(x, its own dtype)  ->  x"""
    return op.x if op.to == op.x.dtype else None


EXACT = {
    ("f16", "f32"),
    ("bf16", "f32"),
    ("f8e4m3", "f16"),
    ("f8e4m3", "bf16"),
    ("f8e4m3", "f32"),
    ("i8", "i32"),
    ("i8", "i64"),
    ("i32", "i64"),
}
"""Casts that lose nothing."""


def cast_of_cast(op: Cast) -> Value | None:
    """cast(cast(x, wider), to)  ->  cast(x, to), where the first lost nothing"""
    match op.x:
        case Cast(x, to) if (x.dtype.name, to.name) in EXACT:
            return Cast(x, op.to)
        case _:
            return None


def times_one(op: Mul) -> Value | None:
    """x * 1  ->  x"""
    return _unchanged(op, op.a, op.b, 1) or _unchanged(op, op.b, op.a, 1)


def over_one(op: Div) -> Value | None:
    """x / 1  ->  x"""
    return _unchanged(op, op.a, op.b, 1)


def plus_zero(op: Add) -> Value | None:
    """x + 0  ->  x"""
    return _unchanged(op, op.a, op.b, 0) or _unchanged(op, op.b, op.a, 0)


def minus_zero(op: Sub) -> Value | None:
    """x - 0  ->  x"""
    return _unchanged(op, op.a, op.b, 0)


def _unchanged(op: Add | Sub | Mul | Div, x: Value, other: Value, neutral: float) -> Value | None:
    same = isinstance(other, Constant) and set(other.values) == {neutral} and x.type == op.type
    return x if same else None


def sum_minus_part(op: Sub) -> Value | None:
    """(a + b) - b  ->  a, of integers"""
    match op:
        case Sub(Add(a, b), c) if op.dtype.kind == "int" and (b is c or a is c):
            kept = a if b is c else b
            return kept if kept.type == op.type else None
        case _:
            return None


def double_neg(op: Neg) -> Value | None:
    """-(-x)  ->  x"""
    return op.x.x if isinstance(op.x, Neg) else None


def size_of_known(op: SizeOf, graph: Graph) -> Value | None:
    """size_of(x)  ->  the number, or size_of(the first input that has this size): one op for all that ask"""
    size = op.x.shape[op.axis]
    if isinstance(size, int):
        return scalar(size, op.dtype)
    for source in graph.inputs:
        if size in source.shape:
            axis = source.shape.index(size)
            return None if (op.x, op.axis) == (source, axis) else SizeOf(source, axis)
    return None


def window_of_all(op: Attention | PackedAttention, graph: Graph) -> Value | None:
    """attention(window of 64 over 32 keys at most)  ->  attention(no window)"""
    keys = op.k.shape[2]
    most = keys if isinstance(keys, int) else graph.bounds.get(str(keys), (0, op.window + 1))[1]
    return op.with_attributes(window=0) if op.window and most <= op.window else None


RULES = (
    slice_of_all, slice_of_slice, slice_of_concat, slice_beside_concat, slice_of_constant, slice_of_cast,
    concat_of_one, concat_of_concats, concat_of_casts, concat_of_slices, concat_across, transpose_of_nothing,
    transpose_of_transpose, reshape_of_nothing, reshape_of_reshape, transpose_of_matrices, linear_of_rows,
    bias_of_linear, times_reciprocal, broadcast_of_nothing, cast_of_nothing, cast_of_cast, cast_of_concat, times_one,
    over_one, plus_zero, minus_zero, sum_minus_part, double_neg, size_of_known, window_of_all,
)   # fmt: skip
