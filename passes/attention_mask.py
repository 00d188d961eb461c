"""What a mask says: causality, lengths, a window, or something else."""

from __future__ import annotations

from dataclasses import dataclass

from trtc.ir.op import Value
from trtc.ir.ops import Add, And, Broadcast, Reshape, SizeOf, product
from trtc.ir.types import Size
from trtc.passes.affine import Axes, Scores, Sum, conditions, excess, number, plus
from trtc.passes.rewrite import Skip


@dataclass(frozen=True)
class Mask:
    """The parts of a mask that attention has operands and attributes for."""

    causal: bool = False
    lengths: Value | None = None
    window: int = 0
    other: Value | None = None


@dataclass(frozen=True)
class _Condition:
    """``key * k + token * t + rest >= 0``; rest is None for any other condition."""

    value: Value
    axes: Axes
    slope: tuple[Size, Size]
    rest: Sum | None


def read_mask(visible: Value, q: Value, k: Value, rank: int) -> Mask | Skip:
    """What ``visible`` says of q[B, Hq, S, D] and k[B, Hkv, T, D].

    Args:
        visible: bool, broadcasts to the scores [B, Hq, S, T] or [B, Hkv, Hq / Hkv, S, T].
        rank: of the scores.
    """
    scores = Scores(rank, q.shape[0], q.shape[2], k.shape[2])
    found = [_read(term, axes, scores) for term, axes in conditions(visible, scores.axes(visible))]
    causal = next((c.rest for c in found if c.slope == (-1, 1)), None)   # key <= token + rest
    limit = next((c.rest for c in found if c.slope == (-1, 0)), None)    # key <= rest
    total = number(scores.keys)
    if causal is not None:
        total = plus(causal, number(scores.tokens))
    elif limit is not None:
        total = plus(limit, number(1))
    if not _counts_keys(total, scores):
        causal, total = None, number(scores.keys)
    other = _joint([c for c in found if not _is_said(c, causal, total, scores)], q, rank)
    if isinstance(other, Skip):
        return other
    windows = [width for c in found if (width := _window(c, causal))]
    return Mask(causal is not None, _lengths(total, q, k), min(windows, default=0), other)


def _read(value: Value, axes: Axes, scores: Scores) -> _Condition:
    terms = excess(value, axes, scores)
    if terms is None:
        return _Condition(value, axes, (0, 0), None)
    rest = {term: factor for term, factor in terms.items() if term not in ("key", "token")}
    return _Condition(value, axes, (terms.get("key", 0), terms.get("token", 0)), rest)


def _window(condition: _Condition, causal: Sum | None) -> int:
    """How many keys a condition leaves of those that a causal token sees; 0 if it is no window."""
    if condition.slope != (1, -1) or condition.rest is None or causal is None:
        return 0
    width = plus(plus(condition.rest, causal), number(1))   # key >= token + first - width + 1
    size = width.get("number", 0)
    return size if set(width) == {"number"} and isinstance(size, int) and size > 0 else 0


def _is_said(condition: _Condition, causal: Sum | None, total: Sum, scores: Scores) -> bool:
    """Whether attention with this causality and these lengths, ``total``, implies a condition."""
    match condition:
        case _Condition(slope=(-1, 1), rest=rest):
            return rest == causal
        case _Condition(slope=(-1, 0), rest=rest) if rest is not None:
            return plus(rest, number(1)) in (total, number(scores.keys))
        case _:
            return _window(condition, causal) > 0


def _counts_keys(total: Sum, scores: Scores) -> bool:
    """Whether a sum is how many keys a sequence may have: all, the new tokens, or one number a sequence and those."""
    size = total.get("number", 0)
    by_sequence = [factor for term, factor in total.items() if isinstance(term, Value)]
    if by_sequence:
        return set(by_sequence) == {1} and size in (0, scores.tokens)
    return size in (scores.keys, scores.tokens)


def _lengths(total: Sum, q: Value, k: Value) -> Value | None:
    """i32[B], the keys of each sequence; None if they are all T."""
    batch = q.shape[0]
    if total == number(k.shape[2]):
        return None
    parts: list[Value] = [
        term if term.shape == (batch,) else Reshape(term, (batch,)) for term in total if isinstance(term, Value)
    ]
    tokens = SizeOf(q, 2) if "number" in total else None
    if not parts:
        return Broadcast(tokens, (batch,)) if tokens else None
    lengths = parts[0]
    for part in (*parts[1:], *([tokens] if tokens else [])):
        lengths = Add(lengths, part)
    return lengths


def _joint(left: list[_Condition], q: Value, rank: int) -> Value | Skip | None:
    """The conjunction of what is left, bool of four axes."""
    joint: Value | None = None
    for condition in left:
        sizes: list[Size] = [1] * rank
        for size, axis in zip(condition.value.shape, condition.axes, strict=True):
            sizes[axis] = size if size != 1 else sizes[axis]
        heads = product(tuple(sizes[1:-2]))
        if heads not in (1, q.shape[1]):
            return Skip(f"a mask is {condition.value.type}, but must be the same for all heads, or one for each")
        shape = (sizes[0], heads, sizes[-2], sizes[-1])
        value = condition.value if condition.value.shape == shape else Reshape(condition.value, shape)
        joint = And(joint, value) if joint else value
    return joint
