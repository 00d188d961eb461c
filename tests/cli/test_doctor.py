"""``trtc doctor``: packages, GPUs, targets, and what to install."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import pytest
from commandline import Trtc

import trtc.backend.backends
import trtc.cli._support
from trtc.backend.backends import BACKENDS, Backend
from trtc.cli._gpu import GPU, gpus

GIB = 2**30


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make up a machine: its back ends, GPUs and missing modules."""

    def make(backends: list[Backend], missing: set[str], found: list[GPU]) -> None:
        names = {b.name: b for b in backends}

        def find(name: str) -> object:
            return None if name in missing else find_spec("json")

        monkeypatch.setattr(trtc.backend.backends, "BACKENDS", names)
        monkeypatch.setattr(trtc.backend.backends, "find_spec", find)
        monkeypatch.setattr(trtc.cli._support, "gpus", lambda: found)
        monkeypatch.setattr("trtc.cli.doctor.packages_distributions", lambda: {"onnx": ["onnx"]})

    return make


ONNX = BACKENDS["onnx"]
GPU_ONLY = Backend("big", "trtc.none", "rtx", ("builder",), ("runner",), needs_gpu=True)
BUILD_ONLY = Backend("later", "trtc.none", "rtx", ("builder",), None, needs_gpu=True)


def test_a_machine_that_lacks_things(trtc_: Trtc, machine: Any) -> None:
    machine([ONNX, GPU_ONLY, BUILD_ONLY], {"onnxruntime", "builder"}, [])
    code, out, err = trtc_("doctor")
    first, rest = out.split("\n", 1)
    assert (code, err) == (0, "")
    assert first.startswith(f"trtc {trtc.__version__}, Python {platform.python_version()}, {platform.system()} ")
    assert rest == (
        "no GPU\n"
        "\n"
        "package      version\n"
        f"onnx         {version('onnx')}\n"
        "onnxruntime  missing\n"
        "builder      missing\n"
        "runner       missing\n"
        "\n"
        "target  builds here             runs here\n"
        "onnx    yes                     no: onnxruntime is missing\n"
        "big     no: builder is missing  no: there is no GPU\n"
        "later   no: builder is missing  no: not in this release\n"
        "\n"
        "pip install 'trtc[onnx,rtx]'\n"
    )


def test_json_of_a_machine_that_lacks_nothing(trtc_: Trtc, machine: Any) -> None:
    machine([ONNX, GPU_ONLY], set(), [GPU("GeForce", "12.0", 32 * GIB, 1.8e12, 4e14)])
    code, out, _ = trtc_("doctor", "--json")
    got = json.loads(out)
    assert code == 0
    said = {"name": "GeForce", "capability": "12.0", "memory": 32 * GIB, "bandwidth": 1.8e12, "flops": 4e14}
    assert got["gpus"] == [said]
    assert got["targets"] == {"onnx": {"builds": "yes", "runs": "yes"}, "big": {"builds": "yes", "runs": "yes"}}
    assert got["install"] is None
    _, out, _ = trtc_("doctor")
    assert "\nGPU GeForce, compute capability 12.0, 34.4 GB\n" in out and out.endswith("\nnothing is missing\n")


def test_this_machine(trtc_: Trtc) -> None:
    got = json.loads(trtc_("doctor", "--json")[1])
    assert got["packages"]["onnxruntime"] == version("onnxruntime")
    assert got["targets"]["onnx"] == {"builds": "yes", "runs": "yes"}


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
