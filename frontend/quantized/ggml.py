"""Blocks of GGUF: each byte, bit and scale of them as ggml lays them out, as expressions.

Source: ggml-quants.c of ggml. In formulas, d and m are 16-bit floats of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trtc.ir.op import Value
from trtc.ir.ops import (
    Add,
    Bitcast,
    Cast,
    Concat,
    Constant,
    Gather,
    Mul,
    Reshape,
    Slice,
    Sub,
    Transpose,
    Unpack,
    scalar,
)
from trtc.ir.types import f16, f32, i8, u8

IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


@dataclass(frozen=True)
class Bytes:
    """Bytes of blocks, u8[N, bytes], by their place in a block."""

    of: Value

    def __call__(self, start: int, size: int) -> Value:
        return Slice(self.of, 1, start, size)

    def float(self, start: int) -> Value:
        """The 16-bit float there, f32[N, 1]."""
        return Cast(Bitcast(self(start, 2), f16), f32)


def fields(x: Value, bits: int, run: int) -> Value:
    """Integers of some bits: of each run of bytes the lowest bits first, then the next: u8[N, bytes * 8 / bits]."""
    count, size = _shape(x)
    each = 8 // bits
    split = Reshape(Unpack(x, bits), (count, size // run, run, each))
    return Reshape(Transpose(split, (0, 1, 3, 2)), (count, size * each))


def plus(low: Value, high: Value, factor: int) -> Value:
    """``low + factor * high``, of u8: bits put together."""
    return Add(low, Mul(high, scalar(factor, u8)))


def scaled(q: Value, scale: Value, least: Value | None = None) -> Value:
    """``q * scale - least`` in f32, of u8 or i8[N, size] and one number for each equal part: f32[N, size]."""
    (count, size), (_, parts) = _shape(q), _shape(scale)
    split = (count, parts, size // parts)
    y = Mul(_f32(Reshape(q, split)), Reshape(scale, (count, parts, 1)))
    return Reshape(Sub(y, Reshape(least, (count, parts, 1))) if least else y, (count, size))


def minus(q: Value, zero: int) -> Value:
    """``q - zero`` in f32."""
    return Sub(_f32(q), scalar(zero, f32))


def _q4_0(b: Bytes) -> Value:
    return scaled(minus(fields(b(2, 16), 4, 16), 8), b.float(0))


def _q4_1(b: Bytes) -> Value:
    return Add(scaled(fields(b(4, 16), 4, 16), b.float(0)), b.float(2))


def _five(bits: Value, nibbles: Value) -> Value:
    return plus(fields(nibbles, 4, 16), Unpack(bits, 1), 16)


def _q5_0(b: Bytes) -> Value:
    return scaled(minus(_five(b(2, 4), b(6, 16)), 16), b.float(0))


def _q5_1(b: Bytes) -> Value:
    return Add(scaled(_five(b(4, 4), b(8, 16)), b.float(0)), b.float(2))


def _q8_0(b: Bytes) -> Value:
    return scaled(Bitcast(b(2, 32), i8), b.float(0))


def _q2_k(b: Bytes) -> Value:
    both = fields(b(0, 16), 4, 16)
    scale, least = (_f32(Slice(both, 1, start, 16)) for start in (0, 16))
    return scaled(fields(b(16, 64), 2, 32), Mul(scale, b.float(80)), Mul(least, b.float(82)))


def _q3_k(b: Bytes) -> Value:
    scale = minus(plus(fields(b(96, 8), 4, 8), fields(b(104, 4), 2, 4), 16), 32)
    q = minus(plus(fields(b(32, 64), 2, 32), fields(b(0, 32), 1, 32), 4), 4)
    return scaled(q, Mul(scale, b.float(108)))


def _scales(b: Bytes) -> tuple[Value, Value]:
    """The scales and the least numbers of 8 parts, f32[N, 8]: 6 bits each, packed into bytes 4..16."""
    mixed = fields(b(12, 4), 4, 4)
    found: list[Value] = []
    for n, start in enumerate((4, 8)):
        x = b(start, 4)
        top = Slice(fields(x, 2, 4), 1, 12, 4)   # the highest 2 bits
        first = Sub(x, Mul(top, scalar(64, u8)))
        found.append(Concat((first, plus(Slice(mixed, 1, 4 * n, 4), top, 16)), 1))
    return Mul(_f32(found[0]), b.float(0)), Mul(_f32(found[1]), b.float(2))


def _q4_k(b: Bytes) -> Value:
    return scaled(fields(b(16, 128), 4, 32), *_scales(b))


def _q5_k(b: Bytes) -> Value:
    return scaled(plus(fields(b(48, 128), 4, 32), fields(b(16, 32), 1, 32), 16), *_scales(b))


def _q6_k(b: Bytes) -> Value:
    q = minus(plus(fields(b(0, 128), 4, 64), fields(b(128, 64), 2, 32), 16), 32)
    return scaled(q, Mul(_f32(Bitcast(b(192, 16), i8)), b.float(208)))


def _looked_up(nibbles: Value) -> Value:
    return Gather(Constant(IQ4, i8[len(IQ4),]), Cast(fields(nibbles, 4, 16), i8))


def _iq4_nl(b: Bytes) -> Value:
    return scaled(_looked_up(b(2, 16)), b.float(0))


def _iq4_xs(b: Bytes) -> Value:
    scale = minus(plus(Unpack(b(4, 4), 4), Unpack(b(2, 2), 2), 16), 32)
    return scaled(_looked_up(b(8, 128)), Mul(scale, b.float(0)))


DEQUANTIZE: dict[str, Callable[[Bytes], Value]] = {
    "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0, "Q2_K": _q2_k, "Q3_K": _q3_k,
    "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k, "IQ4_NL": _iq4_nl, "IQ4_XS": _iq4_xs,
}   # fmt: skip
"""By the name of the element type: f32[N, size] of the blocks u8[N, bytes]."""


def _f32(x: Value) -> Value:
    return x if x.dtype == f32 else Cast(x, f32)


def _shape(x: Value) -> tuple[int, int]:
    first, second = x.shape
    assert isinstance(first, int) and isinstance(second, int)
    return first, second
