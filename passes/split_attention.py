"""Attention over a cache and over new tokens, each read where it lies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from trtc.ir.graph import Graph
from trtc.ir.op import Value, at
from trtc.ir.ops import (
    Add,
    And,
    Attention,
    Cast,
    Div,
    Exp,
    Input,
    Iota,
    KVCacheUpdate,
    Less,
    LessEqual,
    MatMul,
    Maximum,
    Mul,
    ReduceMax,
    ReduceSum,
    Reshape,
    SizeOf,
    Sub,
    Transpose,
    Where,
    scalar,
    soft_cap,
)  # fmt: skip
from trtc.ir.types import f32, i32
from trtc.passes.base import Pass


class SplitAttention(Pass, name="split-attention"):
    """Attend to the cache and to the new tokens apart, and return the new keys and values instead of whole caches.

    For targets that cannot update a cache in place. Where a cache and the update's keys stand side by side, nothing
    copies the cache: ``softmax([a, b]) @ [u, v]`` is ``(exp(a - m) @ u + exp(b - m) @ v) / (sum exp(a - m) + sum
    exp(b - m))`` with m the greatest of both. An output that is the update of the cache ``x`` becomes ``x.new``: the
    rows that whoever runs the graph appends to x. Attention with a mask of its own still reads updated caches.
    """

    def run(self, graph: Graph) -> Graph:
        new: dict[Value, Value] = {}
        for op in graph.ops:
            if isinstance(op, Attention) and (parts := _parts(op)):
                with at(op.loc, absolute=True):
                    new[op] = split(op, *parts)
        graph = graph.replace(new)
        outputs = dict(_appended(graph, name, value) for name, value in graph.outputs.items())
        return replace(graph, outputs=outputs)


def _appended(graph: Graph, name: str, value: Value) -> tuple[str, Value]:
    """An output, as the rows to append where it is the update of the input of its name."""
    if isinstance(value, KVCacheUpdate) and value.cache is graph.aliases.get(name) and _is_past(value.start):
        return f"{name}.new", value.new
    return name, value


def _is_past(start: Value) -> bool:
    return isinstance(start, Input) and start.key == "past_lengths"


def _parts(op: Attention) -> tuple[KVCacheUpdate, KVCacheUpdate] | None:
    """The updates of the keys and of the values, if each token sees all that stands before it, by no mask."""
    k, v = op.k, op.v
    if not (isinstance(k, KVCacheUpdate) and isinstance(v, KVCacheUpdate) and op.causal and not op.mask):
        return None
    ends = op.lengths.operands.values() if isinstance(op.lengths, Add) else ()
    sized = [x for x in ends if isinstance(x, SizeOf) and x.x.shape[x.axis] == op.q.shape[2]]
    whole = k.start is v.start and k.start in ends and len(sized) == 1
    return (k, v) if whole and _is_past(k.start) else None


def split(op: Attention, k: KVCacheUpdate, v: KVCacheUpdate) -> Value:
    """The attention, of the caches and of the new tokens apart."""
    (batch, heads, tokens, head), (_, kv_heads, _, out) = op.q.shape, op.v.shape
    assert isinstance(heads, int) and isinstance(kv_heads, int)
    grouped = (batch, kv_heads, heads // kv_heads * tokens)
    q = Reshape(scaled(op), (*grouped, head))
    old, new = _scores(op, q, k.cache, k.start, in_cache=True), _scores(op, q, k.new, k.start, in_cache=False)
    most = Maximum(ReduceMax(old, 3), ReduceMax(new, 3))
    shares = [Exp(Sub(scores, most)) for scores in (old, new)]
    totals = [ReduceSum(share, 3) for share in shares]
    narrow = [Reshape(Cast(share, op.q.dtype), (*grouped, share.shape[3])) for share in shares]
    sums = [MatMul(share, rows) for share, rows in zip(narrow, (v.cache, v.new), strict=True)]
    y = Reshape(Cast(Add(*sums), f32), (batch, heads, tokens, out))
    return Cast(Div(y, Add(*totals)), op.q.dtype)


def scaled(op: Attention) -> Value:
    """q times the scale; in f32 where q's element type would round the scale, which would shift every score."""
    if op.scale == 1:
        return op.q
    dtype = op.q.dtype
    if float(np.array(op.scale, dtype.numpy)) == op.scale:
        return Mul(op.q, scalar(op.scale, dtype))
    return Cast(Mul(Cast(op.q, f32), scalar(op.scale, f32)), dtype)


def _scores(op: Attention, q: Value, k: Value, start: Value, *, in_cache: bool) -> Value:
    """f32[B, Hq, S, T], -inf where a token does not see a key: of the cache, or of the new tokens."""
    (batch, heads, tokens, _), keys = op.q.shape, k.shape[2]
    scores = Cast(Reshape(MatMul(q, Transpose(k, (0, 1, 3, 2))), (batch, heads, tokens, keys)), f32)
    if op.softcap:
        scores = soft_cap(scores, op.softcap)
    first = Reshape(start, (batch, 1, 1, 1))
    token, key = Reshape(Iota(tokens), (tokens, 1)), Iota(keys)
    place = Add(first, token) if in_cache else token
    seen = Less(key, first) if in_cache else LessEqual(key, place)
    if op.window:
        seen = And(seen, Less(Sub(place, scalar(op.window, i32)), key))
    if op.slopes:
        away = Sub(Cast(key, f32), Cast(place, f32))
        scores = Add(scores, Mul(Reshape(op.slopes, (1, heads, 1, 1)), away))
    return Where(seen, scores, scalar(-np.inf, f32))
