"""Attention, found in the plain ops that papers and exporters write it in."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trtc.ir.op import Value
from trtc.ir.ops import (
    Add,
    Attention,
    Broadcast,
    Cast,
    Constant,
    Div,
    MatMul,
    Mul,
    Reshape,
    Softmax,
    Tanh,
    Transpose,
    Where,
)  # fmt: skip
from trtc.ir.types import DType, bf16, f16, f32
from trtc.passes.attention_bias import read_slopes
from trtc.passes.attention_mask import Mask, read_mask
from trtc.passes.rewrite import Skip, rewrite

HIDDEN = -1e4   # scores at most this weigh nothing beside ordinary ones
BURIED = -1e30  # and these not even beside scores that fall with the distance


@rewrite("fuse-attention")
def fuse_attention(op: MatMul) -> Value | Skip | None:
    """softmax(scale * q @ k.T + slope * key where visible) @ v  ->  attention(q, k, v), heads in groups, window, cap"""
    weights = _past(op.a)
    if not isinstance(weights, Softmax):
        return None
    if weights.axis != weights.type.rank - 1:
        return Skip(f"the softmax is over axis {weights.axis}, but must be over the last, {weights.type.rank - 1}")
    scores = _read_scores(weights.x)
    if isinstance(scores, Skip):
        return scores
    q, k, v = (_heads(x, op.dtype) for x in (scores.product.a, scores.product.b, op.b))
    if not (q and k and v) or q.swapped or q.expanded or v.swapped or not k.swapped or v.factor != 1:
        return Skip("q, k and v are not [B, heads, tokens, head size] with heads in groups")
    if why := _unfit(scores.product, op, q.of, k.of, v.of):
        return Skip(why)
    mask = read_mask(scores.visible, q.of, k.of, scores.rank) if scores.visible else Mask()
    if isinstance(mask, Skip):
        return mask
    if mask.other and math.isfinite(scores.hidden):
        return Skip(f"hidden scores are {scores.hidden:g}, which a token that sees no key needs: the mask may hide all")
    slopes = read_slopes(scores.bias, q.of, k.of, scores.bias_rank) if scores.bias else None
    if isinstance(slopes, Skip):
        return slopes
    fused = Attention(
        q.of,
        k.of,
        v.of,
        mask.lengths,
        mask.other,
        slopes,
        scale=scores.scale * q.factor * k.factor,
        causal=mask.causal,
        window=mask.window,
        softcap=scores.softcap,
    )
    return Reshape(fused, op.shape)


@dataclass(frozen=True)
class Scores:
    """What leads from the product q @ k.T to the softmax."""

    product: MatMul
    scale: float
    softcap: float
    visible: Value | None
    hidden: float   # the score of a key that is not visible
    rank: int       # of the scores where the mask is applied
    bias: Value | None = None
    bias_rank: int = 0   # of the scores where it is added


def _read_scores(value: Value) -> Scores | Skip:
    value = _past(value)
    visible, hidden, rank = None, -math.inf, value.type.rank
    if isinstance(value, Where):
        if not isinstance(value.b, Constant) or max(value.b.values) > HIDDEN:
            return Skip("hidden scores are not set to a large negative number")
        if value.a.shape != value.shape:
            return Skip(f"the mask widens the scores {value.a.type} to {value.type}")
        visible, hidden, value = value.condition, max(value.b.values), value.a
    value, bias = _unbiased(value)
    if bias and hidden > BURIED:
        return Skip(f"hidden scores are {hidden:g}, which a bias may reach")
    product = _product(value)
    if isinstance(product, Skip):
        return product
    return Scores(*product, visible, hidden, rank, bias, value.type.rank)


def _unbiased(value: Value) -> tuple[Value, Value | None]:
    """Scores before something else was added to them, and that."""
    match _past(value):
        case Add(a, b) as joint:
            for scores, bias in ((a, b), (b, a)):
                if scores.shape == joint.shape and not isinstance(_product(scores), Skip):
                    return scores, bias
        case _:
            pass
    return value, None


def _product(value: Value) -> tuple[MatMul, float, float] | Skip:
    """q @ k.T, its scale and its cap."""
    scale, value = _factor(value)
    softcap = 0.0
    if isinstance(value, Tanh):   # softcap * tanh(inner * product) = softcap * tanh(scale * product / softcap)
        inner, value = _factor(value.x)
        softcap, scale = abs(scale), inner * scale
    if not scale or not math.isfinite(scale):
        return Skip(f"scores are scaled by {scale:g}")
    return (value, scale, softcap) if isinstance(value, MatMul) else Skip("scores are no product")


def _factor(value: Value) -> tuple[float, Value]:
    """A value as number * other value, through multiplications and divisions by constants."""
    factor = 1.0
    while True:
        value = _past(value)
        match value:
            case Mul(x, Constant((c,))) | Mul(Constant((c,)), x) if x.shape == value.shape:
                factor, value = factor * c, x
            case Div(x, Constant((c,))) if x.shape == value.shape and c:
                factor, value = factor / c, x
            case _:
                return factor, value


def _past(value: Value) -> Value:
    """What a value is before casts to and from f32, and regrouped heads."""
    while True:
        match value:
            case Reshape(x) if _regroups(value):
                value = x
            case Cast(x, to) if f32 in (to, x.dtype) and {to, x.dtype} <= {f32, f16, bf16}:
                value = x
            case _:
                return value


def _regroups(op: Reshape) -> bool:
    """Whether a reshape only splits or joins the axes between the first and the last two."""
    a, b = op.x.shape, op.sizes
    return len(a) >= 3 and len(b) >= 3 and a[0] == b[0] and a[-2:] == b[-2:]


@dataclass(frozen=True)
class _Heads:
    of: Value        # [B, heads, tokens, size]
    swapped: bool    # the last two axes were swapped on the way
    expanded: bool   # key heads were repeated on the way
    factor: float    # of what it is multiplied by on the way


def _heads(value: Value, dtype: DType) -> _Heads | None:
    """Where q, k or v comes from: four axes, of the element type that the result has."""
    swapped, expanded, factor = False, False, 1.0
    while True:
        match value:
            case Mul(x, Constant((c,))) | Mul(Constant((c,)), x) if x.shape == value.shape and 0 < abs(c) < math.inf:
                value, factor = x, factor * c
            case Reshape(x) if _regroups(value):
                value = x
            case Transpose(x, axes) if axes == (*range(len(axes) - 2), len(axes) - 1, len(axes) - 2):
                value, swapped = x, not swapped
            case Broadcast(x, sizes) if len(sizes) == 5 and x.shape == (*sizes[:2], 1, *sizes[3:]):
                value, expanded = x, True
            case Cast(x, to) if to == f32 and x.dtype == dtype:
                value = x
            case _:
                return _Heads(value, swapped, expanded, factor) if value.type.rank == 4 else None


def _unfit(product: MatMul, result: MatMul, q: Value, k: Value, v: Value) -> str:
    """Why attention cannot take q, k and v; empty where it can."""
    heads, kv_heads = q.shape[1], k.shape[1]
    if not (q.dtype == k.dtype == v.dtype == result.dtype):
        return f"q is {q.dtype}, k {k.dtype} and v {v.dtype}, but the result is {result.dtype}"
    if q.shape[0] != k.shape[0] or k.shape[:3] != v.shape[:3]:
        return f"q is {q.type}, k {k.type} and v {v.type}"
    if not (isinstance(heads, int) and isinstance(kv_heads, int) and heads % kv_heads == 0):
        return f"q has {heads} heads, and k {kv_heads}"

    def in_groups(a: Value, b: Value) -> bool:
        left, right = a.shape[1:-2], b.shape[1:-2]
        return (left, right) in (((heads,), (heads,)), ((kv_heads, heads // kv_heads), (kv_heads, 1)))

    grouped = in_groups(product.a, product.b) and in_groups(result.a, result.b)
    return "" if grouped else "heads of q do not read the key heads in consecutive groups"
