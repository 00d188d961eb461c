"""compressed-tensors, as llm-compressor writes it: packed integers, 8-bit integers and floats, NVFP4.

What a weight is shows in its tensors: bits in the width of ``weight_packed``, groups in the shape of ``weight_scale``.
Source: compressed_tensors/compressors of the package.
"""

from __future__ import annotations

from typing import Any, cast

from trtc.frontend.config import Keys
from trtc.frontend.quantized.base import Block, Dequantize, Stored, scaled, wide, words
from trtc.frontend.quantized.fp8 import sizes_of_block
from trtc.frontend.quantized.scales import PER_SCALE, by_scale, floats_of_4_bits, matrix
from trtc.ir.op import Value
from trtc.ir.ops import Div, Gather, Slice, Transpose, Unpack, scalar
from trtc.ir.types import f8e4m3, i32, i64, u8

FORMATS = (
    "pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "nvfp4-pack-quantized",
    "mixed-precision", "dense",
)   # fmt: skip
BITS = (2, 4, 8)   # what fills words: all versions of the package pack them alike


def read(keys: Keys) -> Dequantize:
    """What makes a weight of its tensors, whichever of the formats it is in."""
    keys.choice("format", FORMATS, default="dense")
    for name in ("sparsity_config", "transform_config"):
        inner = keys.section(name)
        if inner and inner.values.get("format") != "dense":
            raise keys.wrong(name, inner.values, "absent: weights must be dense and as they are")
    block = _block(keys)

    def dequantize(stored: Stored, rows: int, columns: int) -> Value | None:
        if not stored.has("weight_packed"):
            return by_scale(stored, rows, columns, block)
        if stored.dtype("weight_packed") == u8:
            return _nvfp4(stored, rows, columns)
        return _packed(stored, rows, columns)

    return dequantize


def _block(keys: Keys) -> Block | None:
    """The blocks of the first group of layers that has some; others are refused where they are met."""
    groups = keys.section("config_groups")
    for name in cast("dict[str, Any]", groups.values) if groups else ():
        group = groups.section(name) if groups else None
        weights = group.section("weights") if group else None
        if weights and weights.values.get("block_structure") is not None:
            return sizes_of_block(weights, "block_structure")
    return None


def _packed(stored: Stored, rows: int, columns: int) -> Value:
    """Integers in words, each plus half its range; zeros lie packed by columns."""
    width = stored.shape("weight_packed")[-1:]
    bits = next((b for b in BITS if (words(columns, b),) == width), 0)
    if not bits:
        raise stored.wrong("weight_packed", f"[{rows}, {columns} * bits / 32], with 2, 4 or 8 bits")
    q = _first(Unpack(stored("weight_packed", rows, *width, of=(i32,)), bits), columns)
    scale, zero = matrix(stored, "weight_scale", rows, columns), None
    if stored.has("weight_zero_point"):
        shape = words(rows, bits), *stored.shape("weight_scale")[1:]
        packed = Transpose(stored("weight_zero_point", *shape, of=(i32,)), (1, 0))
        zero = Transpose(_first(Unpack(packed, bits), rows), (1, 0))
    if stored.has("weight_g_idx"):
        of = stored("weight_g_idx", columns, of=(i32, i64))
        scale, zero = Gather(scale, of, axis=1), zero and Gather(zero, of, axis=1)
    return scaled(q, scale, zero or scalar(1 << (bits - 1), u8))


def _first(x: Value, count: int) -> Value:
    return x if x.shape[-1] == count else Slice(x, 1, 0, count)


def _nvfp4(stored: Stored, rows: int, columns: int) -> Value:
    q = floats_of_4_bits(stored, "weight_packed", rows, columns)
    scale = stored("weight_scale", rows, columns // PER_SCALE, of=(f8e4m3,))
    return scaled(q, Div(wide(scale), matrix(stored, "weight_global_scale", 1, 1)))
