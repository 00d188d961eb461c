"""Rules for one phase, whose number of tokens is known to be one, few or many."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trtc.backend.cuda.rules import is_output
from trtc.backend.heads import flat_heads
from trtc.backend.kernels import KERNELS
from trtc.backend.kernels.linear import MOST as FEW
from trtc.backend.kernels.ops import (
    PART,
    AddLayerNorm,
    AddRMSNorm,
    AppendAndAttend,
    ArgMax,
    DecodeAttention,
    Dequantize,
    FusedLinear,
    Gated,
    LinearForNorm,
    PrefillAttention,
    RopeAndAppend,
)  # fmt: skip
from trtc.ir.graph import Graph
from trtc.ir.op import Op, Result, Value
from trtc.ir.ops import (
    Add,
    Attention,
    Binary,
    Cast,
    Constant,
    Gather,
    LayerNorm,
    Linear,
    Reshape,
    RMSNorm,
    SizeOf,
    TopK,
    Transpose,
    Unary,
    product,
)  # fmt: skip
from trtc.ir.types import Size, bf16, f16, f32, i4, i32
from trtc.passes.rewrite import Skip

Rule = Callable[..., Any]
BY_ROW = (Linear, FusedLinear, RMSNorm, LayerNorm, Gated, Unary, Cast, Binary)


def is_few(x: Value) -> bool:
    """Whether a product of these rows is one for the kernels of few rows, not for cuBLASLt."""
    rows = product(x.shape[:-1])
    return isinstance(rows, int) and rows <= FEW


def decode_attention(op: Attention) -> Value | Skip | None:
    """attention of one token over a cache  ->  decode_attention"""
    if op.q.shape[2] != 1:
        return None
    if why := unfit(op):
        return Skip(why)
    assert op.lengths
    y = DecodeAttention(
        flat_heads(op.q), op.k, op.v, op.lengths, None, op.slopes,
        heads=_int(op.q.shape[1]), kv_heads=_int(op.k.shape[1]), scale=op.scale, window=op.window, softcap=op.softcap,
    )   # fmt: skip
    return Reshape(y, op.type.shape)


def prefill_attention(op: Attention, graph: Graph) -> Value | Skip | None:
    """attention over a cache that the new tokens are in  ->  prefill_attention, which leaves out what is padding"""
    tokens, told = op.q.shape[2], {i.key: i for i in graph.inputs}
    match op.lengths:
        case Add(start, SizeOf(x, axis)) if x.shape[axis] == tokens:
            pass
        case _:
            return None
    lengths = told.get("input_lengths")
    if tokens == 1 or not lengths or lengths.type != start.type:
        return None
    if why := unfit(op):
        return Skip(why)
    y = PrefillAttention(
        flat_heads(op.q), op.k, op.v, start, lengths, None, op.slopes, heads=_int(op.q.shape[1]),
        kv_heads=_int(op.k.shape[1]), scale=op.scale, window=op.window, softcap=op.softcap,
    )   # fmt: skip
    batch, heads, _, size = op.type.shape
    return Transpose(Reshape(y, (batch, tokens, heads, size)), (0, 2, 1, 3))


def prefill_of_one(op: PrefillAttention) -> Value | None:
    """prefill_attention of one token  ->  decode_attention"""
    if op.q.shape[1] != 1:
        return None
    lengths, rest = Add(op.start, op.lengths), (op.pages, op.slopes, op.key_scale, op.value_scale)
    return DecodeAttention(
        op.q, op.key_cache, op.value_cache, lengths, *rest, heads=op.heads, kv_heads=op.kv_heads,
        scale=op.scale, window=op.window, softcap=op.softcap,
    )   # fmt: skip


def append_and_attend(op: DecodeAttention, graph: Graph) -> Mapping[Value, Value] | Skip | None:
    """decode_attention(rope_and_append(qkv))  ->  append_and_attend(qkv), whose other results are the caches"""
    made, given = op.q, (op.q, op.key_cache, op.value_cache)
    if not isinstance(made, RopeAndAppend) or given != made.results or op.pages is not made.pages:
        return None
    readers = [user for value in given for user in graph.users[value] if not isinstance(user, Result)]
    if any(user is not op for user in readers) or is_output(made, graph):
        return None
    match op.lengths:
        case Add(start, Constant(values=(1,))) if start is made.start:
            lengths = None
        case Add(start, lengths) if start is made.start and lengths.type == start.type:
            pass
        case _:
            return None
    fused = AppendAndAttend(
        made.qkv, made.key_cache, made.value_cache, made.start, made.cos, made.sin, lengths, made.pages, op.slopes,
        made.key_scale, made.value_scale, made.heads, made.kv_heads, made.interleaved, op.scale, op.window, op.softcap,
    )   # fmt: skip
    if why := unserved(fused):
        return Skip(why)
    _, keys, values = fused.results
    return {op: fused, op.key_cache: keys, op.value_cache: values}


def unserved(op: Op) -> str | None:
    """Why no kernel computes an op on any architecture."""
    reasons = [kernel.condition(op) for kernel in KERNELS[type(op)]]
    return "; ".join(filter(None, reasons)) if all(reasons) else None


def unfit(op: Attention) -> str | None:
    """Why no attention kernel over caches computes this."""
    if not isinstance(op.k, Result) or not isinstance(op.k.of, RopeAndAppend):
        return "its keys are in no cache that is updated with the values"
    if not op.causal or op.mask or not op.lengths:
        return "it is not causal, or has a mask, or no lengths"
    return None


def gather_of_one(op: Gather) -> Value | None:
    """gather(x, i) along an axis of size 1  ->  reshape(x), where i looks up one element"""
    alone = op.x.shape[op.axis] == 1 and all(size == 1 for size in op.indices.shape[op.batch :])
    return Reshape(op.x, op.shape) if alone else None


def chosen_rows(op: Gather, graph: Graph) -> Value | None:
    """gather(f(x), rows)  ->  f(gather(x, rows)), where f makes each row of its own and no other rows are read

    Of the last layer, only what comes before its attention is done for each token of a prompt.
    """
    y = op.x
    if (op.axis, op.batch, op.indices.type.rank, y.type.rank) != (1, 1, 1, 3) or is_output(y, graph):
        return None
    others = [user for user in graph.users[y] if not (isinstance(user, Gather) and _is_alike(user, op))]
    if others or not isinstance(y, BY_ROW):
        return None
    rows = {x: Gather(x, op.indices, 1, 1) for x in y.operands.values() if x.type.rank == 3}
    if any(x.shape[:2] != y.shape[:2] for x in rows):
        return None
    if isinstance(y, Binary) and 2 in (y.a.type.rank, y.b.type.rank):
        return None   # as wide as the tokens, of which rows are chosen
    return y.with_operands(rows)


def _is_alike(one: Gather, other: Gather) -> bool:
    """Whether two look up the same places."""
    return one.indices is other.indices and (one.axis, one.batch) == (other.axis, other.batch)


def residual(op: Add, graph: Graph) -> Value | None:
    """linear(x, w) + r  ->  fused_linear(x, w, residual = r)"""
    for y, other in ((op.a, op.b), (op.b, op.a)):
        if not _is_read_once(y, graph) or y.type != op.type or other.type != op.type:
            continue
        match y:
            case Linear(x, weight, bias) if graph.is_constant(weight) and not graph.is_constant(other):
                return FusedLinear(x, weight, None, bias, other, loc=y.loc)
            case FusedLinear(residual=None) if is_few(y.x) or y.scales:
                return y.with_attributes(residual=other)
            case _:
                pass
    return None


def _is_read_once(value: Value, graph: Graph) -> bool:
    return len(graph.users.get(value, ())) == 1 and not is_output(value, graph)


def activation(op: Gated, graph: Graph) -> Value | None:
    """gated(linear(x, w))  ->  fused_linear(x, w, activation), of few rows"""
    match op.x:
        case Linear(x, weight, bias) as y if is_few(x) and _is_read_once(y, graph) and graph.is_constant(weight):
            return FusedLinear(x, weight, None, bias, activation=op.activation, loc=y.loc)
        case FusedLinear(x, residual=None, activation="", softcap=0) as y if is_few(x) and _is_read_once(y, graph):
            return y.with_attributes(activation=op.activation)
        case _:
            return None


def add_norm(op: RMSNorm | LayerNorm, graph: Graph) -> Mapping[Value, Value] | None:
    """norm(x + skip)  ->  add_norm(x, skip), whose second result is the sum"""
    match op.x:
        case Add(x, skip) as joint if x.type == skip.type == joint.type and not graph.is_constant(joint):
            pass
        case _:
            return None
    if isinstance(op, RMSNorm):
        fused = AddRMSNorm(x, skip, op.weight, eps=op.eps)
    else:
        fused = AddLayerNorm(x, skip, op.weight, op.bias, eps=op.eps)
    return {op: fused, joint: fused.results[1]}


def whole_weight(op: FusedLinear) -> Value | None:
    """fused_linear(x, integers, scales) of many rows  ->  fused_linear(x, dequantize(integers, scales))"""
    if not op.scales or op.softcap or op.squares or is_few(op.x):
        return None
    return FusedLinear(op.x, Dequantize(op.weight, op.scales, op.zeros), None, op.bias, op.residual)


def linear_for_norm(op: RMSNorm, graph: Graph) -> Mapping[Value, Value] | Skip | None:
    """linear(rms_norm(linear(x) + r))  ->  fused_linear(y * gain, squares) of linear_for_norm(x, r), of few rows

    All that reads the norm must be such products; y, the sum, may have other readers.
    """
    total = op.x.x if isinstance(op.x, Reshape) else op.x
    match total:
        case FusedLinear(x, residual=Value() as residual, squares=None, activation="", softcap=0) as y if is_few(x):
            pass
        case _:
            return None
    readers = _products(op, graph)
    width = _int(y.shape[-1])
    if not readers or not graph.is_constant(op.weight) or op.shape[-1] != width or width % PART:
        return None
    if any(reader.weight.dtype == i4 and _int(product(reader.x.shape[:-1])) > FEW // 2 for reader in readers):
        return Skip(f"4-bit weights are quicker behind a norm of its own where there are more than {FEW // 2} rows")
    made = LinearForNorm(x, y.weight, y.scales, y.bias, residual, op.weight, y.zeros, loc=y.loc)
    normed = {reader: _of_squares(reader, made, op.eps) for reader in readers}
    if why := next(filter(None, map(unserved, (made, *normed.values()))), None):
        return Skip(why)
    return {y: made, **normed}


def _products(value: Value, graph: Graph) -> list[Linear | FusedLinear] | None:
    """The products of few rows by constants that read a value, itself or reshaped; None if anything else does."""
    found: list[Linear | FusedLinear] = []
    for user in graph.users[value]:
        match user:
            case Linear(x, weight) | FusedLinear(x, weight, squares=None) if x is value and graph.is_constant(weight):
                found.append(user)
            case Reshape() if user.shape[-1] == value.shape[-1] and (more := _products(user, graph)):
                found += more
            case _:
                return None
    once = len(set(found)) == len(found) and not is_output(value, graph)
    return found if once and all(is_few(each.x) for each in found) else None


def _of_squares(op: Linear | FusedLinear, made: LinearForNorm, eps: float) -> Op:
    """A product of the norm of what is made."""
    _, z, squares = made.results
    *rows, _ = op.x.shape
    x, squares = Reshape(z, op.x.shape), Reshape(squares, (*rows, squares.shape[-1]))
    if isinstance(op, Linear):
        return FusedLinear(x, op.weight, None, op.bias, squares=squares, eps=eps, loc=op.loc)
    return op.with_attributes(x=x, squares=squares, eps=eps)


def narrow(op: TopK) -> Value | None:
    """top_k(cast(x))  ->  top_k(x), where the cast widens floats of 16 bits: half as many bytes are read"""
    match op.x:
        case Cast(x, to) if x.dtype in (f16, bf16) and to == f32:
            return TopK(x, op.k)
        case _:
            return None


def greatest(op: TopK) -> Value | None:
    """top_k(x, 1) of rows  ->  argmax(x)"""
    return Reshape(ArgMax(op.x), op.shape) if op.k == 1 and op.x.type.rank == 2 and op.type.dtype == i32 else None


def _int(size: Size) -> int:
    assert isinstance(size, int)
    return size


STAGES: tuple[tuple[Rule, ...], ...] = (
    (decode_attention, prefill_attention, prefill_of_one, gather_of_one, chosen_rows, narrow),
    (residual, activation, greatest, append_and_attend),
    (add_norm, whole_weight, linear_for_norm),
)
