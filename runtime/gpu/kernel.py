"""Kernels: machine code of the GPU, loaded and launched."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtc.errors import TrtcError
from trtc.runtime.gpu.device import Device
from trtc.runtime.gpu.driver import GPUError
from trtc.runtime.gpu.memory import release
from trtc.runtime.gpu.stream import Stream

FOREIGN = ("CUDA_ERROR_NO_BINARY_FOR_GPU", "CUDA_ERROR_INVALID_IMAGE", "CUDA_ERROR_UNSUPPORTED_PTX_VERSION")
SHARED = 48 * 1024   # bytes of a block's shared memory that a kernel may have without asking


class Module:
    """The kernels of one cubin (or PTX text, which the driver compiles).

    Args:
        image: the file's bytes.
        name: as errors call it.
    Errors:
        TrtcError: it is no such file, or one of another GPU or of a newer driver.
    """

    def __init__(self, device: Device, image: bytes, name: str = "the module") -> None:
        self.device, self.name = device, name
        try:
            self._module = device.driver.call("cuModuleLoadData", image)
        except GPUError as error:
            if error.code not in FOREIGN:
                raise
            raise TrtcError(
                f"{name} cannot be loaded by {device}, whose driver is for CUDA {device.driver_version}: {error.code}",
                "help: compile again for this GPU, or install a newer driver",
            ) from None
        self.free = weakref.finalize(self, release, device, "cuModuleUnload", self._module)

    @staticmethod
    def open(device: Device, file: Path) -> Module:
        """The kernels in a file."""
        return Module(device, file.read_bytes(), str(file))

    def kernel(self, name: str, shared: int = 0) -> Kernel:
        """A kernel by its name.

        Args:
            shared: bytes of dynamic shared memory of each block that it is launched with.
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
        return Kernel(self, function, shared)


@dataclass(frozen=True)
class Kernel:
    """A kernel, ready to launch; its module lives as long.

    Args:
        function: the driver's handle.
        shared: bytes of dynamic shared memory of each block.
    """

    module: Module
    function: Any
    shared: int


@dataclass(frozen=True)
class Launch:
    """A kernel, all that it is launched with known.

    Args:
        config: as of `configure`, with a stream.
        arguments: the address of an array with the address of each argument; both are read by each `enqueue`.
    """

    kernel: Kernel
    config: Any
    arguments: int

    def enqueue(self, stream: Stream) -> None:
        """Run it, after what the config's stream has been told before."""
        kernel = self.kernel
        kernel.module.device.driver.call("cuLaunchKernelEx", self.config, kernel.function, self.arguments, 0)


def configure(stream: Stream, grid: Sequence[int], block: Sequence[int], shared: int, overlaps: bool) -> Any:
    """How a kernel is launched; many launches may share one.

    Args:
        grid: blocks along x, y and z.
        block: threads of each.
        shared: bytes of dynamic shared memory of each block.
        overlaps: it may begin before what the stream does before it is done, as the kernel itself waits for that.
    """
    api = stream.device.driver.api
    config = api.CUlaunchConfig()
    config.gridDimX, config.gridDimY, config.gridDimZ = grid
    config.blockDimX, config.blockDimY, config.blockDimZ = block
    config.sharedMemBytes, config.hStream = shared, stream.handle
    if overlaps:
        attribute = api.CUlaunchAttribute()
        attribute.id = api.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        attribute.value.programmaticStreamSerializationAllowed = 1
        config.attrs, config.numAttrs = [attribute], 1
    return config
