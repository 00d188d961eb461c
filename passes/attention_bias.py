"""What a bias of attention's scores says: slopes, by which scores rise from key to key (ALiBi)."""

from __future__ import annotations

from trtc.ir.op import Value
from trtc.ir.ops import Broadcast, Cast, Mul, Reshape
from trtc.ir.types import f32
from trtc.passes.affine import Axes, Scores, before, sum_of
from trtc.passes.rewrite import Skip


def read_slopes(bias: Value, q: Value, k: Value, rank: int) -> Value | Skip:
    """f32[Hq], of a bias ``slope of the head * (key + what is the same for all keys)``.

    What is the same for all keys, a token's own position, say, changes nothing in the softmax.

    Args:
        bias: float, broadcasts to the scores [B, Hq, S, T] or [B, Hkv, Hq / Hkv, S, T].
        rank: of the scores.
    """
    scores = Scores(rank, q.shape[0], q.shape[2], k.shape[2])
    value, axes = _plain(bias, scores.axes(bias))
    if isinstance(value, Mul):
        sides = [(x, axes[len(axes) - x.type.rank :]) for x in (value.a, value.b)]
        for (slopes, along), (positions, others) in (sides, sides[::-1]):
            if _counts_keys(positions, others, scores) and _is_by_head(slopes, along, scores, q):
                flat = Reshape(slopes, (q.shape[1],))
                return flat if flat.dtype == f32 else Cast(flat, f32)
    return Skip("what is added to the scores is no slope of each head times the key's position")


def _plain(value: Value, axes: Axes) -> tuple[Value, Axes]:
    """A value before casts between floats, and before axes of size 1 were added, dropped or repeated."""
    while True:
        match value:
            case Cast(x, to) if to.is_float and x.dtype.is_float:
                value = x
            case Reshape(x) | Broadcast(x) if (inner := before(value, x, axes)) is not None:
                value, axes = x, inner
            case _:
                return value, axes


def _counts_keys(value: Value, axes: Axes, scores: Scores) -> bool:
    value, axes = _plain(value, axes)
    if not isinstance(value, Cast):
        return False
    terms = sum_of(value.x, axes, scores)
    return terms is not None and terms.get("key") == 1


def _is_by_head(value: Value, axes: Axes, scores: Scores, q: Value) -> bool:
    """Whether a value has one number for each head, and nothing else."""
    along = [axis for size, axis in zip(value.shape, axes, strict=True) if size != 1]
    heads = range(1, scores.rank - 2)
    return all(axis in heads for axis in along) and value.type.numel() == q.shape[1]
