"""Plans on a GPU give the text of ONNX Runtime: over stand-ins for the GPU and for TensorRT, whose engines are NumPy's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeDriver
from fake_tensorrt import FakeModule, compile_plan

import trtc
from trtc.runtime.generate import Engine
from trtc.runtime.gpu.device import open_device
from trtc.runtime.gpu.driver import open_driver

MODEL = Path(__file__).parents[3] / "examples" / "shakespeare"
PROMPTS = ["First Citizen:\nBefore we proceed", "ROMEO:", "My lord, I have a thing to say to you, and", "\n"]
LIMITS: dict[str, Any] = {"dtype": "float32", "max_batch_size": 4, "max_input_len": 64, "max_seq_len": 256}
Opener = Callable[..., tuple[Engine, FakeModule]]


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    trtc.compile(MODEL, out := tmp_path_factory.mktemp("onnx") / "engine", target="onnx", **LIMITS)
    return trtc.load(out)


@pytest.fixture
def plans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "plans"   # shared by the module's tests


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, plans: Path) -> Opener:
    """Loads a plan for a target, with a stand-in of its TensorRT."""

    def load(target: str = "tensorrt:8.6", driver: FakeDriver | None = None, **options: Any) -> tuple[Engine, FakeModule]:
        folder = plans / target.replace(":", "-")
        if not folder.exists():
            compile_plan(monkeypatch, MODEL, folder, target, **LIMITS)
        driver = driver or FakeDriver()
        version = trtc.EngineBundle.open(folder).target.version
        module = FakeModule(driver, version, old=target == "tensorrt:8.6", **options.pop("module", {}))
        install(monkeypatch, module, driver)
        return trtc.load(folder, **options), module

    return load


def install(monkeypatch: pytest.MonkeyPatch, module: FakeModule, driver: FakeDriver, name: str = "tensorrt") -> None:
    monkeypatch.setattr("trtc.runtime.tensorrt.module.MODULES", {"tensorrt": (name,), "tensorrt-rtx": (name,)})
    monkeypatch.setitem(__import__("sys").modules, name, module)
    device = open_device(on=open_driver(driver))
    monkeypatch.setattr("trtc.runtime.tensorrt.session.open_device", lambda ordinal: device)


TARGETS = ["tensorrt:8.6", "tensorrt:11.4", "tensorrt-rtx:1.7"]


@pytest.mark.parametrize("target", TARGETS)
def test_greedy_text_of_a_ragged_batch_is_that_of_onnx_runtime(onnx: Engine, opened: Opener, target: str) -> None:
    engine, module = opened(target)
    assert engine.generate(PROMPTS, max_new_tokens=24) == onnx.generate(PROMPTS, max_new_tokens=24)
    assert {r["B"] for r in module.runs} == {4}
