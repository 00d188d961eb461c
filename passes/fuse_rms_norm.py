"""Root-mean-square normalisation, as one op."""

from __future__ import annotations

from trtc.ir.op import Value
from trtc.ir.ops import Add, Cast, Constant, Div, Mul, ReduceMean, RMSNorm, Sqrt
from trtc.ir.types import f32
from trtc.passes.rewrite import Skip, rewrite


@rewrite("fuse-rms-norm")
def fuse_rms_norm(op: Mul) -> Value | Skip | None:
    """x / sqrt(mean(x * x) + eps) * weight  ->  rms_norm(x, weight)"""
    match op:
        case Mul(Cast(Div() as normal, to), weight) | Mul(weight, Cast(Div() as normal, to)):
            pass
        case Mul(Div() as normal, weight) | Mul(weight, Div() as normal):
            to = normal.dtype
        case _:
            return None
    match normal:
        case Div(y, Sqrt(Add(ReduceMean(Mul(a, b), axis), Constant((eps,))))) if a is b is y:
            pass
        case _:
            return None
    x = y.x if isinstance(y, Cast) and y.to == f32 and y.x.dtype == to else y
    if axis != x.type.rank - 1:
        return Skip(f"the mean is over axis {axis}, but must be over the last, {x.type.rank - 1}")
    if x.dtype != to:
        return Skip(f"x is {x.dtype}, but the result {to}")
    if normal.shape != x.shape:
        return Skip(f"eps widens x, {x.type}, to {normal.type}")
    if weight.shape != x.shape[-1:]:
        return Skip(f"the gain is {weight.type}, but must be {x.dtype[x.shape[-1]]}")
    if eps <= 0:
        return Skip(f"eps is {eps:g}, but must be positive")
    return RMSNorm(x, weight, eps=eps)
