"""Rules to ONNX Runtime's own kernels."""

from __future__ import annotations

import math
from collections.abc import Mapping

from trtc.backend.heads import Turned, before_rope, flat_heads
from trtc.backend.onnx.ops import GroupQueryAttention, MoE, SkipRMSNorm
from trtc.ir.graph import Graph
from trtc.ir.op import Value
from trtc.ir.ops import (
    Add,
    Attention,
    Concat,
    Experts,
    Gather,
    Input,
    KVCacheUpdate,
    Linear,
    Mul,
    Reshape,
    RMSNorm,
    SizeOf,
    Slice,
    Transpose,
    scalar,
)  # fmt: skip
from trtc.ir.types import Size, f32, interval
from trtc.passes.rewrite import Skip


def group_query_attention(op: Attention) -> Mapping[Value, Value] | Skip | None:
    """attention(rope(q), update(cache, rope(k)), update(cache, v))  ->  group_query_attention"""
    keys, values = op.k, op.v
    if not isinstance(keys, KVCacheUpdate) or not isinstance(values, KVCacheUpdate):
        return None
    size = op.q.shape[3]
    if (why := _unfit(op, keys, values, size)) is not None:
        return Skip(why)
    q, k = before_rope(op.q), before_rope(keys.new)
    odd = _int(size) % 16 or (q.cos and _int(q.cos.shape[1]) % 8)   # the kernel turns 16, 32, ... elements
    if not q.is_turned_as(k) or q.start is not keys.start or odd:
        q, k = Turned(op.q), Turned(keys.new)
    parts = [flat_heads(x) for x in (q.x, k.x, values.new)]
    assert op.lengths
    fused = GroupQueryAttention(
        Concat(tuple(parts), 2), keys.cache, values.cache, op.lengths, q.cos, q.sin, op.slopes,
        heads=_int(op.q.shape[1]), kv_heads=_int(op.k.shape[1]),
        scale=op.scale, window=op.window, softcap=op.softcap, interleaved=q.interleaved,
    )   # fmt: skip
    batch, heads, tokens, _ = op.q.shape
    y = Transpose(Reshape(fused, (batch, tokens, heads, size)), (0, 2, 1, 3))
    return {op: y, keys: fused.results[1], values: fused.results[2]}


def _unfit(op: Attention, keys: KVCacheUpdate, values: KVCacheUpdate, size: Size) -> str | None:
    if not isinstance(size, int) or size % 8 or values.cache.shape[3] != size:
        return f"head size is {size}, but must be a multiple of 8, and the same for keys and values"
    if not op.causal or op.mask:
        return "it is not causal, or has a mask besides"
    if not isinstance(keys.cache, Input) or not isinstance(values.cache, Input) or keys.start is not values.start:
        return "its caches are no inputs of the graph, or are updated from different positions"
    tokens = op.q.shape[2]
    match op.lengths:
        case Add(start, SizeOf(x, axis)) if start is keys.start and x.shape[axis] == tokens == keys.new.shape[2]:
            return None
        case _:
            return "its lengths are not those of the caches plus the new tokens"


def _int(size: Size) -> int:
    assert isinstance(size, int)
    return size


def skip_rms_norm(op: RMSNorm) -> Mapping[Value, Value] | None:
    """rms_norm(x + skip)  ->  skip_rms_norm(x, skip), whose second result is the sum"""
    match op.x:
        case Add(x, skip) as joint if x.type == skip.type and x.type.rank == 3:
            fused = SkipRMSNorm(x, skip, op.weight, eps=op.eps)
            return {op: fused, joint: fused.results[1]}
        case _:
            return None


def norm_before_last_token(op: RMSNorm) -> Value | None:
    """rms_norm(gather(a + b))  ->  gather(rms_norm(a + b)): one look-up, and a norm that takes the sum along"""
    match op.x:
        case Gather(Add() as joint, indices, axis, batch) if batch and axis < joint.type.rank - 1:
            return Gather(RMSNorm(joint, op.weight, eps=op.eps), indices, axis, batch)
        case _:
            return None


def fold_scale(op: GroupQueryAttention, graph: Graph) -> Mapping[Value, Value] | Skip | None:
    """group_query_attention(linear(x, w), scale)  ->  the scale in the rows of w that make q, and 1 in the kernel

    Both kernels are quicker so, and the one for several sequences needs it.
    """
    match op.qkv:
        case Linear(x, weight, bias) as linear if op.scale != 1 and graph.is_constant(weight):
            pass
        case _:
            return None
    if op.dtype != f32 and math.frexp(op.scale)[0] != 0.5:
        return Skip(f"the scale {op.scale:g} is no power of two, and would round {op.dtype} weights")
    if len(graph.users[linear]) > 1:
        return Skip("something else reads q, k and v")
    rows = op.heads * _int(op.key_cache.shape[3])
    scaled = Linear(x, _scaled(weight, rows, op.scale), _scaled(bias, rows, op.scale) if bias else None, loc=linear.loc)
    kept = {f.name: getattr(op, f.name) for f in op.fields if f.name not in ("qkv", "scale", "flash")}
    flash = interval(op.qkv.shape[0], graph.bounds)[1] == 1
    fused = GroupQueryAttention(scaled, scale=1.0, flash=flash, **kept)
    return dict(zip(op.results, fused.results, strict=True))


def _scaled(weight: Value, rows: int, scale: float) -> Value:
    """The weight with its first rows multiplied."""
    rest = _int(weight.shape[0]) - rows
    first = Mul(Slice(weight, 0, 0, rows), scalar(scale, weight.dtype))
    return Concat((first, Slice(weight, 0, rows, rest)), 0)


def moe(op: Experts) -> Value:
    """experts(fc, gate)  ->  moe(the rows of fc and gate in turns)"""
    experts, width, hidden = op.fc.shape
    paired = Concat(tuple(Reshape(x, (experts, width, 1, hidden)) for x in (op.fc, op.gate)), 2)
    return MoE(op.x, op.chosen, op.shares, Reshape(paired, (experts, 2 * width, hidden)), op.proj)


def product_apart(op: Slice, graph: Graph) -> Value | None:
    """slice(linear(x, w))  ->  linear(x, slice(w)), where all read parts: no kernel has to cut the product"""
    match op.x:
        case Linear(x, weight, bias) as linear if op.axis == linear.type.rank - 1 and graph.is_constant(weight):
            pass
        case _:
            return None
    parts = [u for u in graph.users[linear] if isinstance(u, Slice) and u.axis == op.axis]
    if len(parts) < len(graph.users[linear]) or sum(u.size for u in parts) > _int(linear.shape[-1]):
        return None
    part = Slice(bias, 0, op.start, op.size) if bias else None
    return Linear(x, Slice(weight, 0, op.start, op.size), part)


STAGES = ((group_query_attention, norm_before_last_token, skip_rms_norm, moe), (fold_scale, product_apart))
