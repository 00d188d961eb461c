"""The GPUs of this machine, asked of the driver."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

MAJOR, MINOR = 75, 76   # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
CLOCK, CORES, MEMORY_CLOCK, MEMORY_WIDTH = 13, 16, 36, 37   # kHz, multiprocessors, kHz, bits

PER_CLOCK = {
    "7.0": 1024, "7.5": 1024, "8.0": 2048, "8.6": 1024, "8.7": 2048, "8.9": 1024, "9.0": 4096, "10.0": 8192,
    "10.3": 8192,
}   # fmt: skip
"""Operations on 16-bit floats that the tensor cores of one multiprocessor do in a clock, by compute capability.

Source: NVIDIA's architecture papers: dense products, where sums are kept in 16 bits if that is faster.
"""
LEAST_PER_CLOCK = 1024   # of those that are not named


@dataclass(frozen=True)
class GPU:
    """One GPU: its name, compute capability and bytes of memory.

    Args:
        bandwidth: bytes that its memory moves in a second at most.
        flops: operations on 16-bit floats in a second at most.
    """

    name: str
    capability: str
    memory: int
    bandwidth: float
    flops: float


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
    said: dict[int, int] = {}
    for attribute in (MAJOR, MINOR, CLOCK, CORES, MEMORY_CLOCK, MEMORY_WIDTH):
        value = ctypes.c_int()
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        said[attribute] = value.value
    capability = f"{said[MAJOR]}.{said[MINOR]}"
    bandwidth = 2 * said[MEMORY_CLOCK] * 1e3 * said[MEMORY_WIDTH] / 8   # two transfers a clock
    flops = said[CLOCK] * 1e3 * said[CORES] * PER_CLOCK.get(capability, LEAST_PER_CLOCK)
    return GPU(name.value.decode(), capability, memory.value, bandwidth, flops)
