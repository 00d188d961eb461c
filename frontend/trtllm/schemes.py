"""What makes a plain weight of the tensors of a rank, by ``quant_algo``.

What is stored times ``weights_scaling_factor`` is the weight; ``prequant_scaling_factor`` multiplies what goes in, so
it goes into the columns. Scales of activations and of the KV cache are left to who quantises those.
Source: TensorRT-LLM 0.21, tensorrt_llm/quantization/layers.py and models/modeling_utils.py;
modelopt/torch/export/quant_utils.py.
"""

from __future__ import annotations

from collections.abc import Callable

from trtc.errors import TrtcError
from trtc.frontend.quantized import Stored
from trtc.frontend.quantized.base import blocks_of, scaled, wide
from trtc.frontend.quantized.scales import PER_SCALE, floats_of_4_bits, matrix, pairs_of_rows, times_columns
from trtc.frontend.trtllm import qserve, smooth_quant
from trtc.frontend.trtllm.quantization import Quantization
from trtc.frontend.weights import PLAIN
from trtc.ir.op import Value
from trtc.ir.ops import Add, Bitcast, Mul, Reshape, Transpose, Unpack
from trtc.ir.types import f8e4m3, i8, u8

WEIGHT, SCALE, SECOND = "weight", "weights_scaling_factor", "weights_scaling_factor_2"
ROW_SCALE, BEFORE, ZERO = "per_channel_scale", "prequant_scaling_factor", "zero"
BLOCK = (128, 128)   # of FP8_BLOCK_SCALES
WORD = 16   # bits of a word of GPTQ's
PLAINLY = "help: convert the model without quantization"
Scheme = Callable[[Stored, int, int, Quantization], Value]
"""The weight float[rows, columns] of tensors that are no plain floats."""


def _fp8(stored: Stored, rows: int, columns: int, _: Quantization) -> Value:
    return scaled(_floats_of_8_bits(stored, WEIGHT, rows, columns), Reshape(stored(SCALE, 1), (1, 1)))


def _fp8_by_row(stored: Stored, rows: int, columns: int, _: Quantization) -> Value:
    q = _floats_of_8_bits(stored, WEIGHT, rows, columns)
    return scaled(q, Reshape(stored(ROW_SCALE, rows), (rows, 1)))


def _fp8_by_block(stored: Stored, rows: int, columns: int, _: Quantization) -> Value:
    q = _floats_of_8_bits(stored, WEIGHT, rows, columns)
    return scaled(q, stored(SCALE, *blocks_of(rows, columns, BLOCK)), block=BLOCK)


def _floats_of_8_bits(stored: Stored, name: str, rows: int, columns: int) -> Value:
    """As they are, or called integers, as files from before safetensors knew them have them."""
    q = stored(name, rows, columns, of=(f8e4m3, i8))
    return q if q.dtype == f8e4m3 else Bitcast(q, f8e4m3)


def _nvfp4(stored: Stored, rows: int, columns: int, _: Quantization) -> Value:
    """E2M1 times the scale of its 16 times that of all."""
    q = floats_of_4_bits(stored, WEIGHT, rows, columns)
    scale = wide(_floats_of_8_bits(stored, SCALE, rows, columns // PER_SCALE))
    return times_columns(scaled(q, Mul(scale, matrix(stored, SECOND, 1, 1))), stored, BEFORE, columns)


def _int8(stored: Stored, rows: int, columns: int, _: Quantization) -> Value:
    q = stored(WEIGHT, rows, columns, of=(i8,))
    return times_columns(scaled(q, Reshape(stored(SCALE, rows), (rows, 1))), stored, BEFORE, columns)


def _awq(stored: Stored, rows: int, columns: int, quantization: Quantization) -> Value:
    """Of W4A8_AWQ, too: its second scale is a factor of the first, which engines take apart."""
    scale = stored(SCALE, rows, _groups(stored, columns, quantization))
    return times_columns(scaled(pairs_of_rows(stored, WEIGHT, rows, columns), scale), stored, BEFORE, columns)


def _gptq(bits: int) -> Scheme:
    """``q * scale + zero``, of signed integers [in, out] in bytes; zero is (half the range - 1 - GPTQ's) * scale."""

    def scheme(stored: Stored, rows: int, columns: int, quantization: Quantization) -> Value:
        if stored.dtype(WEIGHT) in PLAIN and stored.shape(WEIGHT) == (columns, rows * bits // WORD):
            raise _depends_on_gpu(stored, f"i8[{columns}, {rows * bits // 8}]", quantization)
        groups = _groups(stored, columns, quantization)
        q = Unpack(stored(WEIGHT, columns, rows * bits // 8, of=(i8, u8)), bits, signed=True)
        weight = scaled(q, stored(SCALE, groups, rows))
        if quantization.has_zero_point or stored.has(ZERO):   # has_zero_point was written inverted: the file is right
            each = columns // groups
            zero = Reshape(wide(stored(ZERO, groups, rows)), (groups, 1, rows))
            weight = Reshape(Add(Reshape(weight, (groups, each, rows)), zero), (columns, rows))
        return Transpose(weight, (1, 0))

    return scheme


def _groups(stored: Stored, columns: int, quantization: Quantization) -> int:
    size = quantization.group_size
    if columns % size:
        raise stored.wrong(WEIGHT, f"of a multiple of group_size, {size}, columns in all, not {columns}")
    return columns // size


def _weight_only(stored: Stored, rows: int, columns: int, quantization: Quantization) -> Value:
    """Plain floats alone are read: the engine's builder quantises them."""
    if stored.dtype(WEIGHT) in PLAIN:
        return stored(WEIGHT, rows, columns)
    raise _depends_on_gpu(stored, f"float[{rows}, {columns}]", quantization)


def _depends_on_gpu(stored: Stored, want: str, quantization: Quantization) -> TrtcError:
    why = f"the integers of {quantization.quant_algo} are in an order that depends on the GPU"
    return stored.wrong(WEIGHT, f"{want}: {why}", PLAINLY)


SCHEMES: dict[str, Scheme] = {
    "FP8": _fp8, "FP8_PER_CHANNEL_PER_TOKEN": _fp8_by_row, "FP8_BLOCK_SCALES": _fp8_by_block,
    "W8A8_SQ_PER_CHANNEL": _int8, **dict.fromkeys(smooth_quant.ALGORITHMS, smooth_quant.weight),
    "W4A16_AWQ": _awq, "W4A8_AWQ": _awq, "W4A16_GPTQ": _gptq(4), "W8A16_GPTQ": _gptq(8),
    "NVFP4": _nvfp4, "NVFP4_AWQ": _nvfp4,
    "W4A8_QSERVE_PER_CHANNEL": qserve.by_channel, "W4A8_QSERVE_PER_GROUP": qserve.by_group,
    "W8A16": _weight_only, "W4A16": _weight_only,
}   # fmt: skip
"""By ``quant_algo``."""
