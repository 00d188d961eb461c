"""The Python modules of TensorRT and TensorRT-RTX, and their names of element types."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

from trtc.backend.tensorrt.api import PRODUCTS, RTX, TENSORRT
from trtc.errors import MissingPackage
from trtc.ir.types import DType

log = logging.getLogger("trtc.tensorrt")
complaints: list[str] = []
"""Errors that TensorRT has logged, oldest first: those of calls that no error recorder was told of."""
UNSTARTED = "CUDA initialization failure"   # to 8.6 a warning, behind which it makes no builder

NAMES = {
    "f32": "float32", "f16": "float16", "bf16": "bfloat16", "i64": "int64", "i32": "int32", "i8": "int8", "u8": "uint8",
    "bool": "bool",
}   # fmt: skip

MODULES: Mapping[str, tuple[str, str]] = {TENSORRT: ("tensorrt", "tensorrt"), RTX: ("tensorrt_rtx_bindings", "rtx")}
"""By product: the module that builds, and the extra of trtc that installs it."""

DISTRIBUTIONS = {
    TENSORRT: ("tensorrt", "tensorrt_cu13", "tensorrt_cu12", "tensorrt_cu13_bindings", "tensorrt_cu12_bindings"),
    RTX: ("tensorrt_rtx_cu13_bindings", "tensorrt_rtx_cu12_bindings"),
}


@cache
def module(product: str) -> Any:
    """The Python module of a product.

    Errors:
        MissingPackage: it is not installed, or cannot be loaded.
    """
    name, extra = MODULES[product]
    try:
        return import_module(name)
    except ImportError:
        raise MissingPackage(name, extra, f"build for target {product}") from None


def rtx() -> Any:
    """The module of TensorRT-RTX."""
    return module(RTX)


@cache
def installed_version(product: str) -> str:
    """The version of a product that is installed, without loading it if it says so elsewhere; empty where none is."""
    name, _ = MODULES[product]
    if find_spec(name) is None:
        return ""
    for distribution in DISTRIBUTIONS[product]:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return str(module(product).__version__)   # unpacked by hand


def product_of(trt: Any) -> str:
    """The name of the product that a module is of."""
    return PRODUCTS[RTX if hasattr(trt, "ComputeCapability") else TENSORRT]


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
            level = levels.get(severity.name, logging.ERROR)
            if level == logging.ERROR or message.startswith(UNSTARTED):
                complaints.append(message)
            log.log(level, "%s", message)

    return Logger()
