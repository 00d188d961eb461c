"""Slopes of attention's scores in place of positions: ALiBi. Press et al., 2021, arXiv:2108.12409."""

from __future__ import annotations

import numpy as np

from trtc.frontend.config import Keys
from trtc.ir.op import Value
from trtc.ir.ops import Cast, Constant, Iota, Mul, Reshape, Sub
from trtc.ir.types import DType, Size, TensorType, f32

MOST = 1 << 16   # heads, far beyond any model


def few_heads(keys: Keys, key: str, heads: int) -> int:
    """The number of heads, if it is one that there can be slopes for."""
    if heads > MOST:
        raise keys.wrong(key, heads, f"at most {MOST}")
    return heads


def alibi_slopes(heads: int) -> tuple[float, ...]:
    """``2 ** (-8 h / heads)`` for h from 1; for heads that are no power of two, as the paper's code has it.

    Those of the next lower power of two come first, then every other one of the next higher.
    """
    lower = 1 << (heads.bit_length() - 1)
    return _powers(lower) + _powers(2 * lower)[: 2 * (heads - lower) : 2]


def mpt_slopes(heads: int, greatest: float) -> tuple[float, ...]:
    """``2 ** (-greatest h / heads)`` for h from 1; for heads that are no power of two, as MPT's code has it.

    Of those of the next higher power of two, every other one from the second, then from the first.
    """
    higher = 1 << (heads - 1).bit_length()
    found = _powers(higher, greatest)
    return found if higher == heads else (found[1::2] + found[::2])[:heads]


def _powers(heads: int, greatest: float = 8.0) -> tuple[float, ...]:
    return tuple(float(np.float32(2.0 ** (-greatest * head / heads))) for head in range(1, heads + 1))


def bias(slopes: tuple[float, ...], groups: int, positions: Value, keys: Size, dtype: DType) -> Value:
    """``slope * (key - position)``, what a key's place adds to the scores: float[B, groups, heads / groups, S, keys].

    Args:
        positions: i32[B, S], of the tokens.
    """
    batch, tokens = positions.shape
    by_head = Constant(slopes, TensorType(f32, (groups, len(slopes) // groups, 1, 1)))
    away = Cast(Sub(Iota(keys), Reshape(positions, (batch, 1, 1, tokens, 1))), f32)
    rise = Mul(by_head, away)
    return rise if dtype == f32 else Cast(rise, dtype)
