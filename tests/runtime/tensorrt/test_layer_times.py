"""``trtc inspect --layers`` and ``--profile`` of a plan on a GPU, over stand-ins for the GPU and for TensorRT."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_tensorrt
import pytest
from fake_cuda import FakeDriver
from fake_tensorrt import FakeContext, FakeEngine, FakeModule, compile_plan

import trtc
from trtc.backend.gpu import GPU
from trtc.cli import _layers
from trtc.cli._graphs import engine_graph
from trtc.errors import TrtcError
from trtc.runtime.gpu.device import Device, open_device
from trtc.runtime.gpu.driver import open_driver
from trtc.runtime.tensorrt import layers

MODEL = Path(__file__).parents[3] / "examples" / "shakespeare"
SAID = {"Layers": [
    {"Name": "gemm", "LayerType": "gemm", "Metadata": "transformer.layers.0.mlp.proj/linear"},
    {"Name": "gemm [profile 1]", "LayerType": "gemm", "Metadata": "transformer.layers.0.mlp.proj/linear"},
]}   # fmt: skip


class Profiled(FakeContext):
    """Reports one layer each run, slower at every second one."""

    profiler: Any = None
    runs = 0

    def execute_async_v3(self, stream: int) -> bool:
        self.runs += 1
        if self.profiler:
            self.profiler.report_layer_time("gemm [profile 1]", 0.5 if self.runs % 2 else 0.7)
        return super().execute_async_v3(stream)


def inspector(engine: FakeEngine) -> Any:
    def say(form: int) -> str:
        return json.dumps(SAID)

    return SimpleNamespace(get_engine_information=say)


@pytest.fixture
def bundle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> trtc.EngineBundle:
    limits: dict[str, Any] = {"dtype": "float32", "max_batch_size": 2, "max_input_len": 8, "max_seq_len": 64}
    compile_plan(monkeypatch, MODEL, tmp_path / "engine", "tensorrt:8.6", **limits)
    found = trtc.EngineBundle.open(tmp_path / "engine")
    driver = FakeDriver()
    module: Any = FakeModule(driver, found.target.version)
    module.IProfiler, module.LayerInformationFormat = FakeModule.ILogger, SimpleNamespace(JSON=1)
    monkeypatch.setattr(FakeEngine, "create_engine_inspector", inspector, raising=False)
    monkeypatch.setattr(fake_tensorrt, "FakeContext", Profiled)
    monkeypatch.setattr("trtc.runtime.tensorrt.module.MODULES", {"tensorrt": ("tensorrt",)})
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", module)
    device = open_device(on=open_driver(driver))

    def opened(number: int) -> Device:
        return device

    monkeypatch.setattr("trtc.runtime.tensorrt.session.open_device", opened)
    return found


def test_a_step_is_timed_by_the_median_of_several(bundle: trtc.EngineBundle) -> None:
    found = layers.times(bundle)
    assert found["seconds"] == {"gemm": [pytest.approx(0.6e-3)]}
    assert (found["profile"], found["sizes"]["B"], found["sizes"]["S"], found["context"]) == (1, 1, 1, 33)
    assert layers.layers(bundle) == SAID


def test_a_plan_that_tells_no_times(bundle: trtc.EngineBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_tensorrt, "FakeContext", FakeContext)
    with pytest.raises(TrtcError, match="tells no times of its layers"):
        layers.times(bundle)


def test_the_command_line_shows_what_a_gpu_says(bundle: trtc.EngineBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_layers, "gpus", lambda: [GPU("GPU", "9.0", 1 << 36, 3e12, 1e15)])
    graph = engine_graph(bundle.path)
    found = _layers.engine_layers(bundle, graph, None)
    head, _, row = _layers.profile_text(bundle, graph, found, _layers.measured_run(bundle, None)).splitlines()
    assert head == "profile 1: B = 1, S = 1, M = 33, 0.600 ms"
    least = 4 * (352 * 128 + 352 + 128) / 3e12   # the weight of f32, in and out
    assert row.split() == [
        "0.600", "100.0%", "1", "0.18", "0.00", f"{least * 1e3:.3f}", "0%", "transformer.layers.0.mlp:", "proj/linear",
    ]   # fmt: skip
