"""A GPU: its name, what it can do, its memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trtc.errors import TrtcError
from trtc.runtime.gpu.driver import OUT_OF_MEMORY, Driver, GPUError, driver


@dataclass(frozen=True)
class Device:
    """One GPU, and the context of it that the process shares with CUDA's runtime and with TensorRT.

    Args:
        name: as NVIDIA calls it.
        compute_capability: (major, minor), such as (9, 0).
        context: its primary context.
    """

    driver: Driver
    ordinal: int
    name: str
    compute_capability: tuple[int, int]
    context: Any

    def use(self) -> None:
        """Make it the GPU of the calling thread: needed once in each thread that calls the driver."""
        self.driver.call("cuCtxSetCurrent", self.context)

    def attribute(self, name: str) -> int:
        """What the driver knows of it, by the end of the name of a ``CUdevice_attribute``."""
        kind = getattr(self.driver.api.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(self.driver.call("cuDeviceGetAttribute", kind, self.driver.call("cuDeviceGet", self.ordinal)))

    @property
    def memory(self) -> tuple[int, int]:
        """Free bytes and bytes in all."""
        self.use()
        free, total = self.driver.call("cuMemGetInfo")
        return int(free), int(total)

    @property
    def driver_version(self) -> str:
        """The newest CUDA that the driver knows, such as ``13.0``."""
        version = int(self.driver.call("cuDriverGetVersion"))
        return f"{version // 1000}.{version % 1000 // 10}"

    def __str__(self) -> str:
        major, minor = self.compute_capability
        return f"{self.name} (compute capability {major}.{minor})"


def open_device(ordinal: int = 0, on: Driver | None = None) -> Device:
    """A GPU by its number, in use by the calling thread.

    Errors:
        TrtcError: there is no such GPU, no driver or no bindings.
    """
    on = on or driver()
    count = on.call("cuDeviceGetCount")
    if not 0 <= ordinal < count:
        raise TrtcError(f"GPU {ordinal} is asked for, but this machine has {count}, counted from 0")
    handle = on.call("cuDeviceGet", ordinal)
    kinds = on.api.CUdevice_attribute
    major, minor = (
        int(on.call("cuDeviceGetAttribute", getattr(kinds, f"CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_{part}"), handle))
        for part in ("MAJOR", "MINOR")
    )
    name = on.call("cuDeviceGetName", 256, handle).split(b"\0")[0].decode()
    try:
        context = on.call("cuDevicePrimaryCtxRetain", handle)
    except GPUError as error:
        if error.code != OUT_OF_MEMORY:
            raise
        fix = "help: nvidia-smi tells which processes hold it"
        raise TrtcError(f"{name} has no memory left for another process", fix) from None
    device = Device(on, ordinal, name, (major, minor), context)
    device.use()
    return device
