"""Quantised checkpoints: what makes plain weights of their tensors, by ``quant_method``."""

from trtc.frontend.quantized import awq, compressed, fp8, gptq, modelopt
from trtc.frontend.quantized.base import METHODS, Dequantize, Stored, dequantized, made_plain

METHODS.update(
    {
        "awq": awq.read,
        "gptq": gptq.read,
        "fp8": fp8.read,
        "compressed-tensors": compressed.read,
        "modelopt": modelopt.read,
        "modelopt_fp4": modelopt.read,
    }
)

__all__ = ["METHODS", "Dequantize", "Stored", "dequantized", "made_plain"]
