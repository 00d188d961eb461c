"""Attention, found in the plain ops that papers and exporters write it in."""

from __future__ import annotations

from dataclasses import dataclass

from trtc.ir.op import Value
from trtc.ir.ops import Attention, Broadcast, Cast, Constant, Div, MatMul, Mul, Reshape, Softmax, Tanh, Transpose, Where
from trtc.ir.types import f32
from trtc.passes.attention_mask import Mask, read_mask
from trtc.passes.rewrite import Skip, rewrite


@rewrite("fuse-attention")
def fuse_attention(op: MatMul) -> Value | Skip | None:
    """softmax(scale * q @ k.T where visible) @ v  ->  attention(q, k, v), with grouped heads, lengths, window, cap"""
    weights = _past(op.a, Cast, Reshape)
    if not isinstance(weights, Softmax):
        return None
    if weights.axis != weights.type.rank - 1:
        return Skip(f"the softmax is over axis {weights.axis}, but must be over the last")
    scores = _read_scores(weights.x)
    if isinstance(scores, Skip):
        return scores
    q, k, v = _heads(scores.product.a), _heads(scores.product.b), _heads(op.b)
    if not (q and k and v) or q.swapped or v.swapped or not k.swapped:
        return Skip("q, k and v are not [B, heads, tokens, head size] with heads in groups")
    (batch, heads, tokens, _), kv_heads = q.of.shape, k.of.shape[1]
    if not (isinstance(heads, int) and isinstance(kv_heads, int) and heads % kv_heads == 0) or v.of.shape[1] != kv_heads:
        return Skip(f"q has {heads} heads, k {kv_heads} and v {v.of.shape[1]}")
    if q.expanded or not _grouped(scores.product, op, heads, kv_heads):
        return Skip("heads of q do not read the key heads in consecutive groups")
    mask = read_mask(scores.visible, q.of, k.of) if scores.visible else Mask()
    if isinstance(mask, Skip):
        return mask
    fused = Attention(
        q.of, k.of, v.of, mask.lengths, mask.other,
        scale=scores.scale, causal=mask.causal, window=mask.window, softcap=scores.softcap,
    )   # fmt: skip
    return Reshape(fused, op.shape)


@dataclass(frozen=True)
class Scores:
    """What leads from the product q @ k.T to the softmax."""

    product: MatMul
    scale: float = 1.0
    softcap: float = 0.0
    visible: Value | None = None


def _read_scores(value: Value) -> Scores | Skip:
    value = _past(value, Cast, Reshape)
    visible = None
    if isinstance(value, Where):
        if not isinstance(value.b, Constant) or max(value.b.values) > -1e4:
            return Skip("hidden scores are not set to a large negative number")
        visible, value = value.condition, _past(value.a, Cast, Reshape)
    outer, value = _factor(value)
    softcap = 0.0
    if isinstance(value, Tanh):
        inner, value = _factor(_past(value.x, Cast, Reshape))
        scale, value = _factor(value)
        if abs(outer * inner - 1) > 1e-3:
            if abs(outer * inner * scale) == 0:
                return Skip("scores are capped by zero")
        softcap, outer = outer, inner * outer * scale
    value = _past(value, Cast, Reshape)
    return Scores(value, outer, softcap, visible) if isinstance(value, MatMul) else Skip("scores are no matrix product")


def _factor(value: Value) -> tuple[float, Value]:
    """A value as number * other value, through multiplications and divisions by constants."""
    factor = 1.0
    while True:
        match value:
            case Mul(x, Constant((c,))) | Mul(Constant((c,)), x):
                factor, value = factor * c, x
            case Div(x, Constant((c,))):
                factor, value = factor / c, x
            case Reshape(x) if isinstance(x, Mul | Div | MatMul | Tanh | Reshape):
                value = x
            case _:
                return factor, value


def _past(value: Value, *kinds: type[Cast] | type[Reshape]) -> Value:
    """What a value is before casts to and from f32, and regrouped heads."""
    while isinstance(value, kinds):
        if isinstance(value, Reshape) and not _regroups(value):
            break
        if isinstance(value, Cast) and f32 not in (value.to, value.x.dtype):
            break
        assert isinstance(value, Cast | Reshape)
        value = value.x
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


def _heads(value: Value) -> _Heads | None:
    swapped = expanded = False
    while True:
        match value:
            case Reshape(x) if _regroups(value):
                value = x
            case Transpose(x, axes) if axes == (*range(len(axes) - 2), len(axes) - 1, len(axes) - 2):
                value, swapped = x, not swapped
            case Broadcast(x, sizes) if len(sizes) == 5 and x.shape == (*sizes[:2], 1, *sizes[3:]):
                value, expanded = x, True
            case _:
                return _Heads(value, swapped, expanded) if value.type.rank == 4 else None


def _grouped(product: MatMul, result: MatMul, heads: int, kv_heads: int) -> bool:
    """Whether both products pair head h of q with head h // (heads / kv_heads) of k and v."""
    def pairs(a: Value, b: Value) -> bool:
        left, right = a.shape[1:-2], b.shape[1:-2]
        return (left, right) in (((heads,), (heads,)), ((kv_heads, heads // kv_heads), (kv_heads, 1)))

    return pairs(product.a, product.b) and pairs(result.a, result.b)
