"""Memory of a GPU in one piece that is planned, told of and then allocated; and memory of the host for its copies."""

from __future__ import annotations

import ctypes
import logging
import weakref
from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from trtc.errors import TrtcError
from trtc.runtime.gpu.device import Device
from trtc.runtime.gpu.driver import OUT_OF_MEMORY, GPUError

log = logging.getLogger("trtc.gpu")

ALIGNMENT = 256   # bytes, of each part: what CUDA promises of an allocation


class MemoryPlan:
    """The parts of one piece of memory, in order.

    Args:
        sizes: the bytes of each part, by its name.
        purposes: by name, what a part is for, in words; parts of one purpose are told together.
    """

    def __init__(self, sizes: Mapping[str, int], purposes: Mapping[str, str] | None = None) -> None:
        self.sizes, self.purposes = dict(sizes), dict(purposes or {})
        self.offsets: dict[str, int] = {}
        self.total = 0
        for name, size in self.sizes.items():
            self.offsets[name] = self.total
            self.total += -(-size // ALIGNMENT) * ALIGNMENT

    def __str__(self) -> str:
        """
        >>> print(MemoryPlan({"k": 2_000_000, "v": 2_000_000, "w": 500_000}, {"k": "KV cache", "v": "KV cache"}))
        KV cache 4.0 MB, w 0.5 MB
        """
        totals: dict[str, int] = {}
        for name, size in self.sizes.items():
            purpose = self.purposes.get(name, name)
            totals[purpose] = totals.get(purpose, 0) + size
        return ", ".join(f"{purpose} {megabytes(size)}" for purpose, size in totals.items())


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


class Arena:
    """The memory of a plan on a GPU.

    Args:
        device: where it lies.
        plan: what it is for; told to the log ``trtc.gpu`` before it is allocated.
    Errors:
        TrtcError: the GPU has not as much free.
    """

    def __init__(self, device: Device, plan: MemoryPlan) -> None:
        self.plan = plan
        free = require(device, plan)
        try:
            self.address = int(device.driver.call("cuMemAlloc", max(plan.total, ALIGNMENT)))
        except GPUError as error:   # another process may have been faster, or the rest lies in pieces
            raise _no_room(device, plan, free) if error.code == OUT_OF_MEMORY else error from None
        self.free = weakref.finalize(self, release, device, "cuMemFree", self.address)

    def __getitem__(self, name: str) -> int:
        """The address of a part."""
        return self.address + self.plan.offsets[name]


def require(device: Device, plan: MemoryPlan) -> int:
    """The free bytes of a GPU, once it is told and certain that a plan has room in them.

    Errors:
        TrtcError: it has not.
    """
    free, total = device.memory
    log.info("%s: needs %s (%s); %s of %s free",
             device.name, megabytes(plan.total), plan, megabytes(free), megabytes(total))   # fmt: skip
    if plan.total > free:
        raise _no_room(device, plan, free)
    return free


def _no_room(device: Device, plan: MemoryPlan, free: int) -> TrtcError:
    have = f"{megabytes(free)} free" if plan.total > free else f"no piece as large, though {megabytes(free)} are free"
    message = f"{megabytes(plan.total)} of GPU memory are needed ({plan}), but {device.name} has {have}"
    return TrtcError(message, "help: fewer sequences at a time, or fewer new tokens, need less")


class HostArray:
    """An array of the host that the GPU copies from and to by itself, while the host goes on.

    Args:
        array: the numbers; valid as long as this object.
    """

    def __init__(self, device: Device, shape: Iterable[int], dtype: npt.DTypeLike) -> None:
        shape, of = tuple(shape), np.dtype(dtype)
        self.size = prod(shape) * of.itemsize
        self.address = int(device.driver.call("cuMemHostAlloc", max(self.size, 1), 0))
        memory = memoryview((ctypes.c_byte * max(self.size, 1)).from_address(self.address))
        self.array: npt.NDArray[Any] = np.frombuffer(memory, np.uint8, self.size).view(of).reshape(shape)
        self.free = weakref.finalize(self, release, device, "cuMemFreeHost", self.address)


def release(device: Device, call: str, handle: Any) -> None:
    """Let go of something; at the process's end the driver may be gone before."""
    try:
        device.use()
        device.driver.call(call, handle)
    except GPUError:
        log.debug("%s failed", call, exc_info=True)
