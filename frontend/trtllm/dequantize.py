"""Quantised checkpoints: what makes plain weights of the tensors of a rank, by ``quant_algo``.

What is stored times ``weights_scaling_factor`` is the weight; ``prequant_scaling_factor`` multiplies what goes in, so
it goes into the columns. Scales of activations and of the KV cache are left to who quantises those.
Source: TensorRT-LLM 0.21, tensorrt_llm/quantization/layers.py; modelopt/torch/export/quant_utils.py.
"""

from __future__ import annotations

from collections.abc import Callable

from trtc.errors import TrtcError
from trtc.frontend.config import Keys
from trtc.frontend.quantized import Dequantize, Stored
from trtc.frontend.quantized.base import scaled
from trtc.frontend.quantized.scales import pairs_of_rows, times_columns
from trtc.frontend.trtllm.quantization import Quantization, read_quantization
from trtc.frontend.weights import PLAIN
from trtc.ir.op import Value
from trtc.ir.ops import Bitcast, Reshape
from trtc.ir.types import f8e4m3, i8

WEIGHT, SCALE, ROW_SCALE, BEFORE = "weight", "weights_scaling_factor", "per_channel_scale", "prequant_scaling_factor"
PLAINLY = "help: convert the model without quantization"
Scheme = Callable[[Stored, int, int, Quantization], Value]
"""The weight float[rows, columns] of tensors that are no plain floats."""


def dequantizer(keys: Keys) -> Dequantize | None:
    """What makes a weight of a rank's tensors; None where config.json says that all are plain.

    Errors:
        TrtcError: an algorithm that is not read.
    """
    quantization = read_quantization(keys.section("quantization"))
    algo = quantization.quant_algo
    if algo is None:
        return None
    if algo not in SCHEMES:
        want = f"null or one of {', '.join(SCHEMES)}"
        raise TrtcError(f"{keys.file}: quantization.quant_algo is {algo}, but must be {want}", PLAINLY)

    def dequantize(stored: Stored, rows: int, columns: int) -> Value | None:
        if stored.dtype(WEIGHT) in PLAIN:   # such as lm_head, or what exclude_modules names
            return None
        return SCHEMES[algo](stored, rows, columns, quantization)

    return dequantize


def _fp8(stored: Stored, rows: int, columns: int, _: Quantization) -> Value:
    return scaled(_floats_of_8_bits(stored, rows, columns), Reshape(stored(SCALE, 1), (1, 1)))


def _fp8_by_row(stored: Stored, rows: int, columns: int, _: Quantization) -> Value:
    return scaled(_floats_of_8_bits(stored, rows, columns), Reshape(stored(ROW_SCALE, rows), (rows, 1)))


def _floats_of_8_bits(stored: Stored, rows: int, columns: int) -> Value:
    """As they are, or called integers, as files from before safetensors knew them have them."""
    q = stored(WEIGHT, rows, columns, of=(f8e4m3, i8))
    return q if q.dtype == f8e4m3 else Bitcast(q, f8e4m3)


def _smooth_quant(stored: Stored, rows: int, columns: int, _: Quantization) -> Value:
    q = stored(WEIGHT, rows, columns, of=(i8,))
    return times_columns(scaled(q, Reshape(stored(SCALE, rows), (rows, 1))), stored, BEFORE, columns)


def _awq(stored: Stored, rows: int, columns: int, quantization: Quantization) -> Value:
    size = quantization.group_size
    if columns % size:
        raise stored.wrong(WEIGHT, f"of a multiple of group_size, {size}, columns in all, not {columns}")
    scale = stored(SCALE, rows, columns // size)
    return times_columns(scaled(pairs_of_rows(stored, WEIGHT, rows, columns), scale), stored, BEFORE, columns)


def _weight_only(stored: Stored, rows: int, columns: int, quantization: Quantization) -> Value:
    """Plain floats alone are read: the engine's builder quantises them."""
    why = f"the integers of {quantization.quant_algo} are in an order that depends on the GPU"
    raise stored.wrong(WEIGHT, f"float[{rows}, {columns}]: {why}", PLAINLY)


SCHEMES: dict[str, Scheme] = {
    "FP8": _fp8, "FP8_PER_CHANNEL_PER_TOKEN": _fp8_by_row, "W8A8_SQ_PER_CHANNEL": _smooth_quant, "W4A16_AWQ": _awq,
    "W8A16": _weight_only, "W4A16": _weight_only,
}   # fmt: skip
"""By ``quant_algo``."""
