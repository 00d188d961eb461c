"""What fusion looks for, written in plain ops, in the ways that papers and exporters write it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from trtc.ir import ops
from trtc.ir.op import Value
from trtc.ir.ops import scalar
from trtc.ir.types import f16, f32, i32


def plain_rms_norm(x: Value, gain: Value, eps: float) -> Value:
    """x / sqrt(mean(x * x) + eps) * gain, computed in f32."""
    wide = x if x.dtype == f32 else ops.Cast(x, f32)
    mean_square = ops.ReduceMean(ops.Mul(wide, wide), x.type.rank - 1)
    normal = ops.Div(wide, ops.Sqrt(ops.Add(mean_square, scalar(eps, f32))))
    return ops.Mul(normal if x.dtype == f32 else ops.Cast(normal, x.dtype), gain)


class AttentionForm:
    """How one attention is written; every choice is drawn.

    Args:
        past: i32[B], where the first new token of each sequence stands; None where keys are the new tokens alone.
    """

    def __init__(self, random: Random, past: Value | None) -> None:
        self.past = past
        self.grouped = random.random() < 0.5             # q in groups, or keys repeated
        self.scale = random.choice(("mul", "div", "q", "none"))
        self.softcap = random.choice((0.0, 0.0, 2.0))
        self.causal = random.random() < 0.7 or past is not None
        self.off = random.choice((0, 0, 0, 1))           # 1: a token sees the next one, too
        self.window = random.choice((0, 0, 2)) if self.causal else 0
        self.half = random.random() < 0.3                # in f16, with the softmax in f32
        self.hidden = random.choice((-float("inf"), -5e4))
        self.swapped = random.random() < 0.3             # keys are transposed before they are regrouped
        self.slopes = random.random() < 0.3              # scores rise from key to key
        self.by_distance = random.random() < 0.5         # ... from 0 at the token itself, or at the first key


def plain_attention(q: Value, k: Value, v: Value, form: AttentionForm) -> Value:
    """softmax(cap(scale * q @ k.T) + slope * key where visible) @ v; f16 where the form says so."""
    if form.half:
        q, k, v = (ops.Cast(x, f16) for x in (q, k, v))
    (batch, heads, tokens, head), (_, kv_heads, keys, _) = q.shape, k.shape
    assert isinstance(heads, int) and isinstance(kv_heads, int)
    group = heads // kv_heads
    if form.scale == "q":
        q = ops.Mul(q, scalar(0.5, q.dtype))
    if form.grouped:
        q = ops.Reshape(q, (batch, kv_heads, group, tokens, head))
        v = ops.Reshape(v, (batch, kv_heads, 1, keys, head))
    elif group > 1:
        k, v = (_repeated(x, group) for x in (k, v))
    scores = ops.MatMul(q, _transposed(k, form))
    made = _scaled(scores, form)
    made = ops.Add(made, _rise(made, heads, form)) if form.slopes else made
    visible = _visible(q, k, form)
    if visible:
        rank = made.type.rank
        shape = visible.shape if rank == 4 else (visible.shape[0], 1, 1, *visible.shape[2:])
        made = ops.Where(ops.Reshape(visible, shape), made, scalar(form.hidden, made.dtype))
    made = ops.Softmax(ops.Cast(made, f32) if form.half else made, made.type.rank - 1)
    return ops.MatMul(ops.Cast(made, f16) if form.half else made, v)


def _repeated(x: Value, group: int) -> Value:
    batch, kv_heads, keys, head = x.shape
    wide = ops.Broadcast(ops.Reshape(x, (batch, kv_heads, 1, keys, head)), (batch, kv_heads, group, keys, head))
    return ops.Reshape(wide, (batch, kv_heads * group, keys, head))


def _transposed(k: Value, form: AttentionForm) -> Value:
    batch, kv_heads, keys, head = k.shape
    if not form.grouped:
        return ops.Transpose(k, (0, 1, 3, 2))
    if form.swapped:
        return ops.Reshape(ops.Transpose(k, (0, 1, 3, 2)), (batch, kv_heads, 1, head, keys))
    return ops.Transpose(ops.Reshape(k, (batch, kv_heads, 1, keys, head)), (0, 1, 2, 4, 3))


def _scaled(scores: Value, form: AttentionForm) -> Value:
    kinds: dict[str, Callable[[Value], Value]] = {
        "mul": lambda x: ops.Mul(x, scalar(0.5, x.dtype)),
        "div": lambda x: ops.Div(x, scalar(2, x.dtype)),
    }
    made = kinds.get(form.scale, lambda x: x)(scores)
    if form.softcap:
        made = ops.Mul(ops.Tanh(ops.Div(made, scalar(form.softcap, made.dtype))), scalar(form.softcap, made.dtype))
    return made


def _rise(scores: Value, heads: int, form: AttentionForm) -> Value:
    """What the place of each key adds to the scores, which it broadcasts to."""
    slopes = ops.Constant(tuple(2.0**-h for h in range(heads)), f32[(*scores.shape[1:-2], 1, 1)])
    places: Value = ops.Iota(scores.shape[-1])
    if form.by_distance:
        place: Value = ops.Reshape(ops.Iota(scores.shape[-2]), (scores.shape[-2], 1))
        if form.past:
            place = ops.Add(ops.Reshape(form.past, (scores.shape[0], *(1,) * (scores.type.rank - 1))), place)
        places = ops.Sub(places, place)
    rise = ops.Mul(slopes, ops.Cast(places, f32))
    return rise if scores.dtype == f32 else ops.Cast(rise, scores.dtype)


def _visible(q: Value, k: Value, form: AttentionForm) -> Value | None:
    """bool[B or 1, 1, S, T]."""
    if not form.causal:
        return None
    batch, tokens, keys = q.shape[0], q.shape[-2], k.shape[2]
    place: Value = ops.Reshape(ops.Iota(tokens), (1, 1, tokens, 1))
    if form.past:
        place = ops.Add(ops.Reshape(form.past, (batch, 1, 1, 1)), place)
    if form.off:
        place = ops.Add(place, scalar(form.off, i32))
    seen: Value = ops.LessEqual(ops.Iota(keys), place)
    if form.window:
        seen = ops.And(ops.Less(ops.Sub(place, scalar(form.window, i32)), ops.Iota(keys)), seen)
    return seen
