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
from trtc.backend.gpu import GPU

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
GPU_ONLY = Backend("big", "trtc.none", "rtx", ("builder",), ("runner",), {"8.9", "12.0"}.__contains__)
BUILD_ONLY = Backend("later", "trtc.none", "rtx", ("builder",), None, lambda _: True)


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
        "without --target: none\n"
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
    assert got["install"] is None and got["default"] == "onnx"
    _, out, _ = trtc_("doctor")
    assert "\nGPU GeForce, compute capability 12.0, 34.4 GB\n" in out
    assert out.endswith("\n\nwithout --target: onnx\n\nnothing is missing\n")


def test_a_gpu_that_a_target_does_not_serve(trtc_: Trtc, machine: Any) -> None:
    machine([GPU_ONLY, ONNX], set(), [GPU("NVIDIA H100", "9.0", 80 * GIB, 3.35e12, 9.9e14)])
    got = json.loads(trtc_("doctor", "--json")[1])
    why = "no: NVIDIA H100 has compute capability 9.0, which it does not serve"
    assert (got["targets"]["big"]["runs"], got["default"]) == (why, "onnx")


def test_this_machine(trtc_: Trtc) -> None:
    got = json.loads(trtc_("doctor", "--json")[1])
    assert got["packages"]["onnxruntime"] == version("onnxruntime")
    assert got["targets"]["onnx"] == {"builds": "yes", "runs": "yes"}
