"""Kernels: machine code of the GPU, loaded and launched."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from trtc.errors import TrtcError
from trtc.runtime.gpu.device import Device
from trtc.runtime.gpu.driver import GPUError
from trtc.runtime.gpu.memory import release
from trtc.runtime.gpu.stream import Stream

Dim: TypeAlias = tuple[int, int, int]

FOREIGN = ("CUDA_ERROR_NO_BINARY_FOR_GPU", "CUDA_ERROR_INVALID_IMAGE", "CUDA_ERROR_UNSUPPORTED_PTX_VERSION")
SHARED = 48 * 1024   # bytes of a block's shared memory that a kernel may have without asking


class Module:
    """The kernels of one cubin (or PTX text, which the driver compiles).

    Args:
        image: the file's bytes.
        name: as errors call it.
    Errors:
        TrtcError: it is no such file, or one of another GPU.
    """

    def __init__(self, device: Device, image: bytes, name: str = "the module") -> None:
        self.device, self.name = device, name
        try:
            self._module = device.driver.call("cuModuleLoadData", image)
        except GPUError as error:
            if error.code not in FOREIGN:
                raise
            raise TrtcError(
                f"{name} cannot be loaded by {device}: {error.code}",
                "help: compile again for this GPU",
            ) from None
        self.free = weakref.finalize(self, release, device, "cuModuleUnload", self._module)

    @staticmethod
    def open(device: Device, file: Path) -> Module:
        """The kernels in a file."""
        return Module(device, file.read_bytes(), str(file))

    def kernel(self, name: str, types: Sequence[Any] = (), shared: int = 0) -> Kernel:
        """A kernel by its name.

        Args:
            types: ctypes of its parameters; None for an address.
            shared: the most bytes of dynamic shared memory that it is launched with.
        Errors:
            TrtcError: there is no such kernel.
        """
        call, api = self.device.driver.call, self.device.driver.api
        try:
            function = call("cuModuleGetFunction", self._module, name.encode())
        except GPUError as error:
            if error.code != "CUDA_ERROR_NOT_FOUND":
                raise
            raise TrtcError(f"{self.name} has no kernel {name}") from None
        if shared > SHARED:
            attribute = api.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            call("cuFuncSetAttribute", function, attribute, shared)
        return Kernel(self, function, tuple(ctypes.c_void_p if t is None else t for t in types))


class Kernel:
    """A kernel, ready to launch; its module lives as long.

    Args:
        types: ctypes of its parameters.
    """

    def __init__(self, module: Module, function: Any, types: tuple[Any, ...]) -> None:
        self._module, self._function, self._types = module, function, types
        self._call = module.device.driver.call

    def launch(self, stream: Stream, grid: Dim, block: Dim, arguments: Sequence[Any], shared: int = 0) -> None:
        """Run it, after what the stream has been told before.

        Args:
            grid: blocks.
            block: threads of each.
            arguments: one a parameter: numbers, and addresses as int.
            shared: bytes of dynamic shared memory of each block.
        """
        given = (tuple(arguments), self._types)
        self._call("cuLaunchKernel", self._function, *grid, *block, shared, stream.handle, given, 0)
