"""ModelOpt's (once AMMO's) Hugging Face form: FP8, NVFP4, 4-bit AWQ, 8-bit SmoothQuant.

What a weight is shows in its tensors. Scales of activations and of the KV cache are left to who quantises those.
Source: modelopt/torch/export/quant_utils.py.
"""

from __future__ import annotations

from trtc.frontend.config import Keys
from trtc.frontend.quantized.base import Dequantize, Stored, scaled, wide
from trtc.frontend.quantized.scales import PER_SCALE, by_scale, floats_of_4_bits, matrix, pairs_of_rows, times_columns
from trtc.ir.op import Value
from trtc.ir.ops import Mul
from trtc.ir.types import f8e4m3, u8

ALGORITHMS = (
    "FP8", "FP8_PER_CHANNEL_PER_TOKEN", "NVFP4", "NVFP4_AWQ", "W4A16_AWQ", "W8A8_SQ_PER_CHANNEL", "W8A16",
    "MIXED_PRECISION",
)   # fmt: skip


def read(keys: Keys) -> Dequantize:
    """What makes a weight of its tensors, whichever algorithm wrote it."""
    if keys.values.get("quant_algo") is not None:   # null where the KV cache alone is quantised
        keys.choice("quant_algo", ALGORITHMS)

    def dequantize(stored: Stored, rows: int, columns: int) -> Value | None:
        if not stored.has("weight_scale"):
            return None
        if stored.dtype("weight") != u8:
            weight = by_scale(stored, rows, columns)
        elif stored.dtype("weight_scale") == f8e4m3:
            weight = _nvfp4(stored, rows, columns)
        else:
            weight = _awq(stored, rows, columns)
        return weight and times_columns(weight, stored, "pre_quant_scale", columns)

    return dequantize


def _nvfp4(stored: Stored, rows: int, columns: int) -> Value:
    q = floats_of_4_bits(stored, "weight", rows, columns)
    scale = stored("weight_scale", rows, columns // PER_SCALE, of=(f8e4m3,))
    return scaled(q, Mul(wide(scale), matrix(stored, "weight_scale_2", 1, 1)))


def _awq(stored: Stored, rows: int, columns: int) -> Value:
    return scaled(pairs_of_rows(stored, "weight", rows, columns), matrix(stored, "weight_scale", rows, columns))
