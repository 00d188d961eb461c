"""Weights of 8-bit floats with a scale for each block, or one for all: DeepSeek V3, Qwen 3, AutoFP8.

DeepSeek-AI, 2024, arXiv:2412.19437, 3.3: blocks of 128 x 128; ``weight_scale_inv`` is what weights are multiplied by.
"""

from __future__ import annotations

from typing import Any, cast

from trtc.frontend.config import Keys
from trtc.frontend.quantized.base import Block, Dequantize, Stored, scaled
from trtc.frontend.quantized.scales import by_scale, matrix
from trtc.ir.op import Value
from trtc.ir.types import f8e4m3


def read(keys: Keys) -> Dequantize:
    """What makes a weight of weight f8e4m3[out, in] and weight_scale_inv float[out/b, in/b], or weight_scale."""
    keys.choice("fmt", ("e4m3",), default="e4m3")
    block = sizes_of_block(keys, "weight_block_size")

    def dequantize(stored: Stored, rows: int, columns: int) -> Value | None:
        if not stored.has("weight_scale_inv"):
            return by_scale(stored, rows, columns)
        q = stored("weight", rows, columns, of=(f8e4m3,))
        return scaled(q, matrix(stored, "weight_scale_inv", rows, columns, block), block=block)

    return dequantize


def sizes_of_block(keys: Keys, key: str) -> Block | None:
    """The rows and the columns of a block under a key, if it is there."""
    value: Any = keys.values.get(key)
    if value is None:
        return None
    sizes = cast("list[Any]", value) if isinstance(value, list) else []
    if len(sizes) != 2 or not all(type(n) is int and 1 <= n <= 1 << 20 for n in sizes):
        raise keys.wrong(key, cast("object", value), "a list of the rows and the columns of a block")
    return sizes[0], sizes[1]
