"""What ops that do several things in one pass have in common, whichever back end they are of."""

from __future__ import annotations

from trtc.ir.op import Op, Value, require
from trtc.ir.ops import Add, Cast, Gather, Iota, Reshape, RMSNorm, Rope, Slice, Transpose
from trtc.ir.types import TensorType


class SumAndRMSNorm(Op):
    """``rms_norm(x + skip)``, then ``x + skip``: operands of one type, and the norm's weight and eps."""

    x: Value
    skip: Value
    weight: Value
    eps: float = 1e-5

    def infer(self) -> tuple[TensorType, TensorType]:
        require(self.x.type == self.skip.type, f"x is {self.x.type}, but skip is {self.skip.type}")
        return RMSNorm(self.x, self.weight, eps=self.eps).type, self.x.type

    def decompose(self) -> tuple[Value, ...]:
        total = Add(self.x, self.skip)
        return RMSNorm(total, self.weight, eps=self.eps), total


def turned_heads(
    qkv: Value, start: Value, cos: Value | None, sin: Value | None, *,
    heads: int, kv_heads: int, size: int, interleaved: bool,
) -> tuple[Value, Value, Value]:   # fmt: skip
    """q float[B, Hq, S, D], k and v float[B, Hkv, S, D] of merged heads, q and k turned where there are tables.

    Args:
        qkv: float[B, S, (Hq + 2 * Hkv) * D], the heads of q, then of k, then of v.
        start: i32[B], the position of each sequence's first token.
        cos, sin: float[P, R/2], by position.
        size: D.
    """
    batch, tokens, _ = qkv.shape

    def part(first: int, count: int) -> Value:
        columns = Slice(qkv, 2, first * size, count * size)
        return Transpose(Reshape(columns, (batch, tokens, count, size)), (0, 2, 1, 3))

    q, k, v = part(0, heads), part(heads, kv_heads), part(heads + kv_heads, kv_heads)
    if cos and sin:
        positions = Add(Reshape(start, (batch, 1)), Iota(tokens))
        angles = (Gather(table, positions) for table in (cos, sin))
        cos, sin = (x if x.dtype == qkv.dtype else Cast(x, qkv.dtype) for x in angles)
        q, k = (Rope(x, cos, sin, interleaved=interleaved) for x in (q, k))
    return q, k, v
