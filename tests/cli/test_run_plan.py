"""``trtc run`` of a plan on a GPU, over stand-ins for both."""

from __future__ import annotations

from pathlib import Path

import pytest
from commandline import MODEL, Trtc
from fake_cuda import FakeDriver
from fake_tensorrt import FakeModule, compile_plan, install


def test_memory_is_told_before_it_is_taken(trtc_: Trtc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"max_batch_size": 2, "max_input_len": 16, "max_seq_len": 64}
    engine = compile_plan(monkeypatch, MODEL, tmp_path / "engine", "tensorrt:8.6", dtype="float16", **limits)
    driver = FakeDriver()
    install(monkeypatch, driver, {"tensorrt": FakeModule(driver, "8.6", capturable=False)})
    arguments = ("run", engine, "--prompt-ids", "5,6", "--max-new-tokens", "4", "--prefill-chunk", "1")
    code, text, said = trtc_(*arguments, "--verbose")
    assert code == 0
    assert said.splitlines()[:2] == [
        "Fake GPU: needs 0.1 MB (activations 0.0 MB, KV cache 0.1 MB, inputs and outputs 0.0 MB); "
        "1,073.7 MB of 1,073.7 MB free",
        "the decode step runs without a CUDA graph: TensorRT 8.6 fails at a run of the engine: "
        "operation not permitted when stream is capturing",
    ]
    assert trtc_(*arguments) == trtc_(*arguments, "--no-cuda-graphs", "--check-numerics") == (0, text, "")
