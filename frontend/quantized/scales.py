"""Weights whose quantised numbers stand one by one, or packed in rows, beside their scales."""

from __future__ import annotations

from trtc.frontend.quantized.base import Block, Stored, blocks_of, scaled, wide
from trtc.frontend.weights import PLAIN
from trtc.ir.op import Value
from trtc.ir.ops import Cast, Constant, Gather, Mul, Reshape, Transpose, Unpack
from trtc.ir.types import DType, f8e4m3, f32, i8, u8

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
"""The numbers of a 4-bit float by its bits. Rouhani et al., 2023, arXiv:2310.10537."""
PER_SCALE = 16   # numbers of NVFP4 that share one


def by_scale(stored: Stored, rows: int, columns: int, block: Block | None = None) -> Value | None:
    """The weight of weight f8e4m3 or i8, weight_scale and weight_zero_point; None where it is a plain float."""
    if not stored.has("weight_scale") or stored.dtype("weight") in PLAIN:
        return None
    q = stored("weight", rows, columns, of=(f8e4m3, i8))
    scale = matrix(stored, "weight_scale", rows, columns, block)
    zero = None
    if stored.has("weight_zero_point"):
        zero = matrix(stored, "weight_zero_point", rows, columns, block, of=(i8, f8e4m3, *PLAIN))
    return scaled(q, scale, zero, block)


def matrix(
    stored: Stored, name: str, rows: int, columns: int, block: Block | None = None, of: tuple[DType, ...] = PLAIN
) -> Value:
    """One number for all, or for each row, group of a row, or block: any[r, c]."""
    shape = stored.shape(name)
    sizes = shape[::2] if len(shape) == 4 and shape[1::2] == (1, 1) else shape   # [r, 1, c, 1], of ModelOpt's blocks
    r, c = sizes if len(sizes) == 2 else (*sizes, 1) if len(sizes) == 1 else (1, 1)
    cut = block is not None and (r, c) == blocks_of(rows, columns, block)
    if len(sizes) > 2 or not r or not c or (not cut and (rows % r or columns % c)):
        raise stored.wrong(name, f"scales of rows, of groups or of blocks of [{rows}, {columns}]")
    x = stored(name, *shape, of=of)
    return x if x.shape == (r, c) else Reshape(x, (r, c))


def floats_of_4_bits(stored: Stored, name: str, rows: int, columns: int) -> Value:
    """Numbers of E2M1, the even columns in the low halves of bytes: f32[rows, columns] of u8[rows, columns / 2]."""
    if columns % PER_SCALE:
        raise stored.wrong(name, f"of a multiple of {PER_SCALE} columns in all, not {columns}")
    fields = Unpack(stored(name, rows, columns // 2, of=(u8, i8)), 4)
    return Gather(Constant(E2M1, f32[len(E2M1),]), Cast(fields, i8))


def pairs_of_rows(stored: Stored, name: str, rows: int, columns: int) -> Value:
    """Signed integers of 4 bits, the even rows in the low halves of bytes: i8[rows, columns] of [rows / 2, columns]."""
    if rows % 2:
        raise stored.wrong(name, f"of an even number of rows in all, not {rows}")
    packed = stored(name, rows // 2, columns, of=(u8, i8))
    pairs = Reshape(Unpack(packed, 4, signed=True), (rows // 2, columns, 2))
    return Reshape(Transpose(pairs, (0, 2, 1)), (rows, columns))


def times_columns(weight: Value, stored: Stored, name: str, columns: int) -> Value:
    """The weight that gives with x what this one gives with x times the scales of a name, where there are some."""
    if not stored.has(name):
        return weight
    return Mul(weight, Reshape(wide(stored(name, columns)), (1, columns)))
