"""The GPUs of this machine, asked of the driver."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

MAJOR, MINOR = 75, 76   # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


@dataclass(frozen=True)
class GPU:
    """One GPU: its name, compute capability and bytes of memory."""

    name: str
    capability: str
    memory: int


def gpus(library: str = "libcuda.so.1") -> list[GPU]:
    """What the CUDA driver finds; none where there is no driver."""
    try:
        cuda = ctypes.CDLL(library)
    except OSError:
        return []
    count = ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return []
    return [_gpu(cuda, n) for n in range(count.value)]


def _gpu(cuda: ctypes.CDLL, number: int) -> GPU:
    device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
    cuda.cuDeviceGet(ctypes.byref(device), number)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    capability: list[int] = []
    for attribute in (MAJOR, MINOR):
        value = ctypes.c_int()
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        capability.append(value.value)
    return GPU(name.value.decode(), ".".join(map(str, capability)), memory.value)
