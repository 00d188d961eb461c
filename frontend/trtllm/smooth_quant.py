"""SmoothQuant as TensorRT-LLM's own scripts wrote it: the plug-ins' algorithms, W8A8_SQ_*_PLUGIN.

Xiao et al., 2022, arXiv:2211.10438. What goes into dense and proj is divided by ``smoother``; what goes into the
others was divided in the norm before them. Where activations have scales by token, ``per_channel_scale`` is the
weight's. Where one is fixed, it leads from sums of integers to the integers of what comes out: out's scale to integers
/ (in's * the weight's). The others stand in the file: out's inverse is ``act_scale``, in's that of what comes before.
Source: get_tllm_linear_sq_weight of TensorRT-LLM 0.21, tensorrt_llm/models/llama/convert.py.
"""

from __future__ import annotations

from trtc.frontend.quantized import Stored
from trtc.frontend.quantized.base import scaled, wide
from trtc.frontend.trtllm.quantization import SMOOTH_QUANT, Quantization
from trtc.ir.op import Value
from trtc.ir.ops import Div, Mul, Reshape
from trtc.ir.types import i8

ALGORITHMS = tuple(SMOOTH_QUANT.values())
BY_ROW, BY_TOKEN = ({algo for per, algo in SMOOTH_QUANT.items() if per[which]} for which in (0, 1))
TO_INTEGERS = {
    "attention.qkv": "input_layernorm.scale_to_int", "attention.dense": "attention.quantization_scaling_factor",
    "mlp.fc": "post_layernorm.scale_to_int", "mlp.gate": "post_layernorm.scale_to_int",
    "mlp.proj": "mlp.quantization_scaling_factor",
}   # fmt: skip
"""What multiplies the input of a module before it is rounded."""


def weight(stored: Stored, rows: int, columns: int, quantization: Quantization) -> Value:
    """The weight of weight i8[out, in], per_channel_scale [1, out] or [1, 1], smoother [1, in] where it has one."""
    layer, module = _parts(stored.stem)
    q = stored("weight", rows, columns, of=(i8,))
    count = rows if quantization.quant_algo in BY_ROW or module == "attention.qkv" else 1
    scale = wide(Reshape(stored("per_channel_scale", 1, count), (count, 1)))
    if quantization.quant_algo not in BY_TOKEN:
        if module not in TO_INTEGERS:
            raise stored.wrong("weight", f"of one of {', '.join(TO_INTEGERS)}, whose inputs have scales in the file")
        before, _, name = TO_INTEGERS[module].rpartition(".")
        to_integers = stored.beside(f"{layer}.{before}")(name, 1)
        scale = Mul(Mul(scale, wide(stored("act_scale", 1, 1))), Reshape(wide(to_integers), (1, 1)))
    whole = scaled(q, scale)
    if not stored.has("smoother"):
        return whole
    return Div(whole, Reshape(wide(stored("smoother", 1, columns)), (1, columns)))


def _parts(stem: str) -> tuple[str, str]:
    """``rank0/transformer.layers.3.attention.qkv`` as what is before ``attention.qkv``, and that."""
    layer, *module = stem.rsplit(".", 2)
    return layer, ".".join(module)
