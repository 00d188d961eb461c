"""Heads of q, k and v as graphs make them, seen from kernels that take them merged and turn them themselves."""

from __future__ import annotations

from dataclasses import dataclass

from trtc.ir.op import Value
from trtc.ir.ops import Add, Cast, Gather, Iota, Reshape, Rope, Transpose
from trtc.ir.types import f32, i32


@dataclass(frozen=True)
class Turned:
    """Heads before their rotation, float[B, N, S, D].

    Args:
        cos, sin: f32[P, R/2], by position; none where nothing turns them that a kernel could do.
        start: i32[B], the position of each sequence's first token, which the others follow.
    """

    x: Value
    cos: Value | None = None
    sin: Value | None = None
    start: Value | None = None
    interleaved: bool = False

    def is_turned_as(self, other: Turned) -> bool:
        """Whether one rotation serves both."""
        mine, theirs = ((t.cos, t.sin, t.start, t.interleaved) for t in (self, other))
        return mine == theirs


def before_rope(value: Value) -> Turned:
    """rope(x) by tables at consecutive positions, as x and they; any other value as it is.

    Kernels round cos and sin themselves, or compute in f32: a cast of them is left out.
    """
    if isinstance(value, Rope):
        match _wide(value.cos), _wide(value.sin):
            case Gather(cos, at, 0, 0), Gather(sin, also, 0, 0) if at is also and (start := _start(at, value.x)):
                if cos.dtype == f32 and cos.type.rank == 2:
                    return Turned(value.x, cos, sin, start, value.interleaved)
            case _:
                pass
    return Turned(value)


def _start(positions: Value, x: Value) -> Value | None:
    match positions:
        case Add(Reshape(start), Iota(tokens)) if tokens == x.shape[2] and start.type == i32[x.shape[0]]:
            return start
        case _:
            return None


def _wide(angle: Value) -> Value:
    return angle.x if isinstance(angle, Cast) and angle.x.dtype == f32 else angle


def flat_heads(x: Value) -> Value:
    """[B, N, S, D] as [B, S, N * D]."""
    batch, heads, tokens, size = x.shape
    assert isinstance(heads, int) and isinstance(size, int)
    return Reshape(Transpose(x, (0, 2, 1, 3)), (batch, tokens, heads * size))
