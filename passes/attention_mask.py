"""What a mask says: causality, lengths, a window, or something else."""

from __future__ import annotations

from dataclasses import dataclass, replace

from trtc.ir.op import Value
from trtc.ir.ops import Add, And, Constant, Iota, Less, LessEqual, Reshape, SizeOf, Sub
from trtc.ir.types import i32
from trtc.passes.rewrite import Skip


@dataclass(frozen=True)
class Mask:
    """The parts of a mask that attention has operands and attributes for."""

    causal: bool = False
    lengths: Value | None = None
    window: int = 0
    other: Value | None = None


def read_mask(visible: Value, q: Value, k: Value) -> Mask | Skip:
    """What ``visible`` (bool, of the scores' rank) says of q[B, Hq, S, D] and k[B, Hkv, T, D]."""
    mask = Mask()
    for term in _terms(visible):
        known = _read_term(term, q, k, mask)
        if known:
            mask = known
        elif (other := _in_four_axes(term)) is None:
            return Skip(f"the mask is {term.type}, but must be of rank 4, or 5 with one mask for each group of heads")
        else:
            mask = replace(mask, other=And(mask.other, other) if mask.other else other)
    if mask.window and not mask.causal:
        return Skip("the mask has a window, but is not causal")
    return mask


def _terms(value: Value) -> list[Value]:
    match value:
        case And(a, b):
            return [*_terms(a), *_terms(b)]
        case Reshape(And(a, b)) if a.shape == b.shape:
            return [*_terms(Reshape(a, value.shape)), *_terms(Reshape(b, value.shape))]
        case _:
            return [value]


def _read_term(term: Value, q: Value, k: Value, mask: Mask) -> Mask | None:
    """The mask with one more term: key <= place, place - window < key, or key < length."""
    term = _flat(term)
    match term:
        case LessEqual(key, place) if _is_key(key, k):
            first = _first(place, q)
            return replace(mask, causal=True, lengths=_length(first, q)) if first else None
        case Less(Sub(place, Constant((window,))), key) if _is_key(key, k) and _first(place, q) and window >= 1:
            return replace(mask, window=int(window))
        case Less(key, length) if _is_key(key, k):
            per_sequence = _flat(length)
            known = per_sequence.type == i32[q.shape[0]] and not mask.causal
            return replace(mask, lengths=per_sequence) if known else None
        case _:
            return None


def _flat(value: Value) -> Value:
    while isinstance(value, Reshape):
        value = value.x
    return value


def _is_key(value: Value, k: Value) -> bool:
    """Whether a value numbers the keys, along its last axis."""
    return isinstance(iota := _flat(value), Iota) and iota.size == k.shape[2] and value.shape[-1] == k.shape[2]


def _first(place: Value, q: Value) -> Value | None:
    """i32[B], where the first new token of each sequence stands, if ``place`` is that plus the token's number."""
    batch, _, tokens, _ = q.shape
    if place.shape[-2:] != (tokens, 1) or place.shape[0] not in (batch, 1):
        return None
    match _flat(place):
        case Add(first, iota) | Add(iota, first) if isinstance(i := _flat(iota), Iota) and i.size == tokens:
            start = _flat(first)
            return start if start.type == i32[batch] else None if not isinstance(start, Sub) else _from_lengths(start, batch)
        case _:
            return None


def _from_lengths(start: Sub, batch: object) -> Value | None:
    return start if start.shape in ((batch, 1), (batch,)) else None


def _length(first: Value, q: Value) -> Value:
    """i32[B], the keys of each sequence: where its first token stands, plus the new tokens."""
    batch = q.shape[0]
    match first:
        case Sub(length, SizeOf()) if _flat(length).type == i32[batch]:
            return _flat(length)
        case _:
            return Add(Reshape(first, (batch,)), SizeOf(q, 2))


def _in_four_axes(term: Value) -> Value | None:
    if term.type.rank <= 4:
        return term
    if term.type.rank == 5 and term.shape[2] == 1:
        return Reshape(term, (*term.shape[:2], *term.shape[3:]))
    return None
