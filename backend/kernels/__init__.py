"""CUDA kernels: records, launch rules and sources. Importing this package registers them all."""

from trtc.backend.kernels import attention, embedding, linear, moe, norm, ptx, sampling
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
    "moe",
    "norm",
    "operand",
    "product",
    "ptx",
    "result",
    "sampling",
]
