"""The GPUs of this machine, as a stand-in for the CUDA driver has them."""

from __future__ import annotations

from typing import Any

import pytest

from trtc.backend.gpu import gpus

GIB = 2**30
H100 = {13: 1_830_000, 16: 132, 36: 2_619_000, 37: 5120}   # clock in kHz, multiprocessors, memory's clock and width


class Driver:
    """A CUDA driver with two GPUs, as ctypes would show it."""

    def __init__(self, result: int = 0) -> None:
        self.result = result

    def cuInit(self, _: int) -> int:
        return self.result

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = 2
        return 0

    def cuDeviceGet(self, device: Any, number: int) -> None:
        device._obj.value = number

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> None:
        name.value = f"GPU {device.value}".encode()[: size - 1]

    def cuDeviceTotalMem_v2(self, memory: Any, device: Any) -> None:
        memory._obj.value = (device.value + 1) * GIB

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> None:
        value._obj.value = {75: 9, 76: device.value, **H100}[attribute]


def test_gpus_by_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpus("no-such-library.so") == []
    drivers = iter([Driver(), Driver(result=100)])   # CUDA_ERROR_NO_DEVICE

    def load(_: str) -> Driver:
        return next(drivers)

    monkeypatch.setattr("ctypes.CDLL", load)
    first, second = gpus()
    assert [(gpu.name, gpu.capability, gpu.memory) for gpu in (first, second)] == [
        ("GPU 0", "9.0", GIB), ("GPU 1", "9.1", 2 * GIB),
    ]   # fmt: skip
    assert first.bandwidth == pytest.approx(3.35e12, rel=1e-3)   # as NVIDIA's data sheet of the H100 SXM says
    assert first.flops == pytest.approx(989.4e12, rel=1e-3)
    assert gpus() == []
