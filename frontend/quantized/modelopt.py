"""ModelOpt's (once AMMO's) Hugging Face form: FP8, NVFP4, 4-bit AWQ, 8-bit SmoothQuant.

What a weight is shows in its tensors. Scales of activations and of the KV cache are left to who quantises those.
Source: modelopt/torch/export/quant_utils.py.
"""

from __future__ import annotations

from trtc.frontend.config import Keys
from trtc.frontend.quantized.base import Dequantize, Stored, scaled, wide
from trtc.frontend.quantized.layers import Patterns, names_of_layers
from trtc.frontend.quantized.scales import PER_SCALE, by_scale, floats_of_4_bits, matrix, pairs_of_rows, times_columns
from trtc.ir.op import Value
from trtc.ir.ops import Mul
from trtc.ir.types import f8e4m3, u8

ALGORITHMS = (
    "FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO", "fp8_pb_wo", "NVFP4", "NVFP4_AWQ", "W4A16_AWQ", "W4A8_AWQ",
    "W8A8_SQ_PER_CHANNEL", "W8A16", "MIXED_PRECISION",
)   # fmt: skip
BLOCK = (128, 128)   # of FP8_PB_WO


def read(keys: Keys) -> Dequantize:
    """What makes a weight of its tensors, whichever algorithm wrote it; of the layers that are quantised."""
    if keys.values.get("quant_algo") is not None:   # null where the KV cache alone is quantised
        keys.choice("quant_algo", ALGORITHMS)
    excluded = Patterns((*names_of_layers(keys, "exclude_modules"), *names_of_layers(keys, "ignore")))
    layers = _layers(keys)

    def dequantize(stored: Stored, rows: int, columns: int) -> Value | None:
        name = stored.stem
        if not stored.has("weight_scale") or name in excluded or (layers is not None and name not in layers):
            return None
        if stored.dtype("weight") != u8:
            weight = by_scale(stored, rows, columns, BLOCK)
        elif stored.dtype("weight_scale") == f8e4m3:
            weight = _nvfp4(stored, rows, columns)
        else:
            weight = _awq(stored, rows, columns)
        return weight and times_columns(weight, stored, "pre_quant_scale", columns)

    return dequantize


def _layers(keys: Keys) -> Patterns | None:
    """The layers that have algorithms of their own, which are then those that are quantised; None: nothing is said."""
    layers = keys.section("quantized_layers")
    if layers is None:
        return None
    for name in layers.values:
        layer = layers.section(name) or Keys({}, keys.file, f"{layers.prefix}{name}.")
        layer.choice("quant_algo", ALGORITHMS)
    return Patterns(layers.values)


def _nvfp4(stored: Stored, rows: int, columns: int) -> Value:
    q = floats_of_4_bits(stored, "weight", rows, columns)
    scale = stored("weight_scale", rows, columns // PER_SCALE, of=(f8e4m3,))
    return scaled(q, Mul(wide(scale), matrix(stored, "weight_scale_2", 1, 1)))


def _awq(stored: Stored, rows: int, columns: int) -> Value:
    return scaled(pairs_of_rows(stored, "weight", rows, columns), matrix(stored, "weight_scale", rows, columns))
