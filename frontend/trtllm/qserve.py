"""QServe's 4-bit weights: integers 0..15 in the order of its kernels, scaled once, or twice by groups of columns.

Lin et al., 2024, arXiv:2405.04532.
Source: qserve_pack_reorder_per_group of TensorRT-LLM 0.21, tensorrt_llm/quantization/quantize.py.
"""

from __future__ import annotations

from trtc.frontend.quantized import Stored
from trtc.frontend.quantized.base import scaled, wide
from trtc.frontend.trtllm.quantization import Quantization
from trtc.ir.op import Value
from trtc.ir.ops import Add, Mul, Reshape, Sub, Transpose, Unpack
from trtc.ir.types import i8, u8

TILE = 32   # rows, and columns


def by_channel(stored: Stored, rows: int, columns: int, _: Quantization) -> Value:
    """``q * s1_scales - s1_szeros``, a number of each for a row."""
    q = _integers(stored, rows, columns)
    scale, zero = (wide(Reshape(stored(name, rows), (rows, 1))) for name in ("s1_scales", "s1_szeros"))
    return Sub(Mul(wide(q), scale), zero)


def by_group(stored: Stored, rows: int, columns: int, quantization: Quantization) -> Value:
    """``(q * s2_scales + s2_szeros) * s1_scales``: those of a group are integers, the last is a row's."""
    size = quantization.group_size
    if columns % size:
        raise stored.wrong("weight", f"of a multiple of group_size, {size}, columns in all, not {columns}")
    q, groups = _integers(stored, rows, columns), columns // size
    zeros = "s2_szeros" if stored.has("s2_szeros") else "s2_zeros"   # as the first versions spelt it
    scale, zero = (_of_groups(stored, name, groups, rows) for name in ("s2_scales", zeros))
    eight = Add(Mul(Reshape(wide(q), (rows, groups, size)), scale), zero)
    return scaled(Reshape(eight, (rows, columns)), Reshape(stored("s1_scales", rows), (rows, 1)))


def _integers(stored: Stored, rows: int, columns: int) -> Value:
    """u8[rows, columns] of bytes [rows, columns / 2]: tiles of 32 by 32, rows 16 apart in the halves of a byte."""
    if rows % TILE or columns % TILE:
        raise stored.wrong("weight", f"of multiples of {TILE} rows and columns in all, not {rows} and {columns}")
    fields = Unpack(stored("weight", rows, columns // 2, of=(i8, u8)), 4)
    tiles = Reshape(fields, (rows // TILE, columns // TILE, 8, 4, 2, 2, 4, 2))
    return Reshape(Transpose(tiles, (0, 7, 5, 2, 1, 4, 3, 6)), (rows, columns))


def _of_groups(stored: Stored, name: str, groups: int, rows: int) -> Value:
    """f32[rows, groups, 1] of i8[groups, rows], where of each 32 rows those that are 8 apart lie side by side."""
    tiles = Reshape(stored(name, groups, rows, of=(i8,)), (groups, rows // TILE, 8, 4))
    return wide(Reshape(Transpose(tiles, (1, 3, 2, 0)), (rows, groups, 1)))
