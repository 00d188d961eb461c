"""Rules to ONNX Runtime's own kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trtc.backend.onnx.ops import GroupQueryAttention, SkipRMSNorm
from trtc.ir.graph import Graph
from trtc.ir.op import Value
from trtc.ir.ops import (
    Add, Attention, Concat, Gather, Input, Iota, KVCacheUpdate, Reshape, RMSNorm, Rope, SizeOf, Slice, Transpose,
)   # fmt: skip
from trtc.ir.types import Size, i32
from trtc.passes.rewrite import Skip


def group_query_attention(op: Attention) -> Mapping[Value, Value] | Skip | None:
    """attention(rope(q), update(cache, rope(k)), update(cache, v))  ->  group_query_attention"""
    keys, values = op.k, op.v
    if not isinstance(keys, KVCacheUpdate) or not isinstance(values, KVCacheUpdate):
        return None
    size = op.q.shape[3]
    if (why := _unfit(op, keys, values, size)) is not None:
        return Skip(why)
    q, k, v = _turned(op.q), _turned(keys.new), _turned(values.new)
    fused_rope = q.rope_key == k.rope_key and q.cos is not None and isinstance(size, int) and size % 16 == 0
    if fused_rope and q.start is not keys.start:
        return Skip("tokens do not stand where their keys are written")
    if not fused_rope:
        q, k = _Turned(op.q), _Turned(keys.new)
    parts = [_flat(part.x) for part in (q, k, v)]
    assert op.lengths
    fused = GroupQueryAttention(
        Concat(tuple(parts), 2), keys.cache, values.cache, op.lengths, q.cos, q.sin,
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
    match op.lengths:
        case Add(start, SizeOf(x, axis)) if start is keys.start and x.shape[axis] == op.q.shape[2]:
            return None
        case _:
            return "its lengths are not those of the caches plus the new tokens"


@dataclass(frozen=True)
class _Turned:
    """A value before the rotation, if it is one that the kernel can do: by tables, at consecutive positions."""

    x: Value
    cos: Value | None = None
    sin: Value | None = None
    start: Value | None = None
    interleaved: bool = False

    @property
    def rope_key(self) -> tuple[object, ...]:
        return self.cos, self.sin, self.start, self.interleaved


def _turned(value: Value) -> _Turned:
    match value:
        case Rope(x, Gather(cos, at, 0, 0), Gather(sin, also, 0, 0), interleaved) if at is also:
            match at:
                case Add(Reshape(start), Iota(tokens)) if tokens == x.shape[2] and start.type == i32[x.shape[0]]:
                    return _Turned(x, cos, sin, start, interleaved)
    return _Turned(value)


def _flat(x: Value) -> Value:
    """[B, N, S, D] as [B, S, N * D]."""
    batch, heads, tokens, size = x.shape
    return Reshape(Transpose(x, (0, 2, 1, 3)), (batch, tokens, _int(heads) * _int(size)))


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


def last_token_first(op: Gather, graph: Graph) -> Value | None:
    """gather(a + b)  ->  gather(a) + gather(b), where nothing else reads the sum"""
    match op.x:
        case Add(a, b) as joint if a.type == b.type and op.batch and len(graph.users[joint]) == 1:
            return Add(*(Gather(x, op.indices, op.axis, op.batch) for x in (a, b)))
        case _:
            return None


RULES = (group_query_attention, last_token_first, skip_rms_norm)

