"""The Python module of TensorRT-RTX, and its names of element types."""

from __future__ import annotations

import logging
from functools import cache
from importlib import import_module
from typing import Any

from trtc.errors import MissingPackage
from trtc.ir.types import DType

log = logging.getLogger("trtc.tensorrt")

NAMES = {
    "f32": "float32", "f16": "float16", "bf16": "bfloat16", "i64": "int64", "i32": "int32", "i8": "int8", "u8": "uint8",
    "bool": "bool",
}   # fmt: skip


@cache
def rtx() -> Any:
    """The module ``tensorrt_rtx_bindings``.

    Errors:
        MissingPackage: it is not installed.
    """
    try:
        return import_module("tensorrt_rtx_bindings")
    except ImportError:
        raise MissingPackage("tensorrt_rtx_bindings", "rtx", "build for target tensorrt-rtx") from None


def dtype_of(trt: Any, dtype: DType) -> Any:
    """TensorRT's name of an element type."""
    return getattr(trt, NAMES[dtype.name])


@cache
def logger(trt: Any) -> Any:
    """The one logger of the process (TensorRT knows only the first): its lines go to Python's log ``trtc.tensorrt``."""
    levels = {"VERBOSE": logging.DEBUG, "INFO": logging.DEBUG, "WARNING": logging.INFO}

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            log.log(levels.get(severity.name, logging.ERROR), "%s", message)

    return Logger()
