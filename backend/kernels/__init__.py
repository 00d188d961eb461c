"""CUDA kernels: records, launch rules and sources. Importing this package registers them all."""

from trtc.backend.kernels import (
    attention,
    embedding,
    linear,
    matmul,
    moe,
    norm,
    pointwise,
    ptx,
    reduce,
    sampling,
    whole,
)  # fmt: skip
from trtc.backend.kernels.kernel import ARCHITECTURES, KERNELS, Kernel, find, kernel
from trtc.backend.kernels.launch import Launch, Pointer, Scalar, ceildiv, count, operand, product, result

__all__ = [
    "ARCHITECTURES",
    "KERNELS",
    "Kernel",
    "Launch",
    "Pointer",
    "Scalar",
    "attention",
    "ceildiv",
    "count",
    "embedding",
    "find",
    "kernel",
    "linear",
    "matmul",
    "moe",
    "norm",
    "operand",
    "pointwise",
    "product",
    "ptx",
    "reduce",
    "result",
    "sampling",
    "whole",
]
