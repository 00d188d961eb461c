"""The CUDA driver: every call is checked, and what it refuses is one sentence."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from trtc.errors import MissingPackage, TrtcError

OUT_OF_MEMORY, NO_DEVICE = "CUDA_ERROR_OUT_OF_MEMORY", "CUDA_ERROR_NO_DEVICE"
NEEDED = "help: run it on a machine with an NVIDIA GPU, or compile with --target onnx for this one"


class GPUError(TrtcError):
    """The driver refuses a call.

    Args:
        call: its name.
        code: the error's name in CUDA.
        said: what the driver says of it.
    """

    def __init__(self, call: str, code: str, said: str) -> None:
        super().__init__(f"the GPU refuses {call}: {said} ({code})")
        self.code = code


class Driver:
    """Calls of the driver, by their names.

    Args:
        api: the module ``cuda.bindings.driver``.
    """

    def __init__(self, api: Any) -> None:
        self.api = api

    def call(self, name: str, *arguments: Any) -> Any:
        """What a call gives: nothing, one thing or a tuple.

        Errors:
            GPUError: it gives a code other than 0.
            TrtcError: the driver is too old to have it.
        """
        try:
            code, *results = getattr(self.api, name)(*arguments)
        except RuntimeError as error:   # of the bindings, which look a call up when it is first made
            raise TrtcError(f"the driver cannot do {name}: {error}", "help: install a newer driver") from None
        if int(code):
            raise self.error(name, code)
        return results[0] if len(results) == 1 else tuple(results)

    def error(self, name: str, code: Any) -> GPUError:
        """The error that a call's code stands for."""
        _, known = self.api.cuGetErrorName(code)
        _, said = self.api.cuGetErrorString(code)
        return GPUError(name, known.decode() if known else f"CUDA error {int(code)}", said.decode() if said else "?")


def open_driver(api: Any) -> Driver:
    """The driver behind a module of bindings, initialised.

    Errors:
        TrtcError: there is no driver, or no GPU.
    """
    driver = Driver(api)
    try:
        api.cuInit(0)
    except (RuntimeError, OSError):   # of the bindings, where the driver's library is not found
        raise TrtcError("this machine has no NVIDIA driver, but GPU engines need one", NEEDED) from None
    try:
        driver.call("cuInit", 0)
        count = driver.call("cuDeviceGetCount")
    except GPUError as error:
        if error.code != NO_DEVICE:
            raise
        count = 0
    if not count:
        raise TrtcError("this machine has no NVIDIA GPU, but GPU engines need one", NEEDED)
    return driver


@cache
def driver() -> Driver:
    """The driver of this machine.

    Errors:
        MissingPackage: its Python bindings are not installed.
        TrtcError: there is no driver, or no GPU.
    """
    try:
        api = import_module("cuda.bindings.driver")
    except ImportError:
        raise MissingPackage("cuda.bindings", "cuda", "run engines on a GPU") from None
    return open_driver(api)
