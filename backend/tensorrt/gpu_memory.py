"""How much memory of the GPU is free, as far as CUDA's bindings are there to tell."""

from __future__ import annotations

from importlib import import_module
from typing import Any

UNKNOWN = (1, 1)


def gpu_memory() -> tuple[int, int]:
    """Free bytes and bytes in all of the GPU that TensorRT builds on; all are free where nobody knows."""
    try:
        api: Any = import_module("cuda.bindings.driver")
        code, *context = api.cuDevicePrimaryCtxRetain(0)   # TensorRT's own
    except (ImportError, RuntimeError, OSError):   # no bindings; no driver
        return UNKNOWN
    if int(code):
        return UNKNOWN
    api.cuCtxSetCurrent(*context)   # of this thread, which TensorRT need not have used
    code, *sizes = api.cuMemGetInfo()
    return UNKNOWN if int(code) else (int(sizes[0]), int(sizes[1]))
