"""The target that an engine is built for where none is named."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

import pytest

from trtc.backend import backends
from trtc.backend.backends import default_target
from trtc.backend.gpu import GPU
from trtc.errors import TrtcError

CUDA = {"cuda", "cuda.bindings"}
RTX = {"tensorrt_rtx_bindings", "tensorrt_rtx_libs", *CUDA}
FULL = {"tensorrt", *CUDA}
ONNX = {"onnx", "onnxruntime"}


def machine(monkeypatch: pytest.MonkeyPatch, installed: Iterable[str], *capabilities: str) -> None:
    """Make up what is installed, and the GPUs."""
    there = set(installed)

    def found(name: str) -> object:
        return find_spec("json") if name in there else None

    monkeypatch.setattr(backends, "find_spec", found)
    monkeypatch.setattr(backends, "gpus", lambda: [GPU("GPU", c, 1 << 34, 1e12, 1e14) for c in capabilities])


@pytest.mark.parametrize(("capabilities", "installed", "best"), [
    ([], RTX | FULL | ONNX, "onnx"),
    (["8.9"], RTX | FULL | ONNX, "tensorrt-rtx"), (["7.5"], RTX, "tensorrt-rtx"), (["12.0"], FULL, "tensorrt"),
    (["9.0"], RTX | FULL | ONNX, "tensorrt"), (["8.0"], RTX | FULL, "tensorrt"), (["10.0"], RTX | FULL, "tensorrt"),
    (["9.0", "8.9"], RTX | ONNX, "cuda"),   # the first GPU decides, which engines run on
    (["9.0"], RTX | ONNX, "cuda"), (["8.7"], CUDA | ONNX, "cuda"), (["8.9"], {"tensorrt", *ONNX}, "onnx"),
    (["10.3"], RTX | ONNX, "cuda"), (["7.0"], RTX | ONNX, "onnx"), (["9.0"], ONNX, "onnx"),
])   # fmt: skip
def test_the_best_that_builds_and_runs_here(
    capabilities: list[str], installed: set[str], best: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, installed, *capabilities)
    assert default_target() == best


def test_nothing_builds_and_runs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, RTX | {"onnx"})
    with pytest.raises(TrtcError) as error:
        default_target()
    assert error.value.message == "no target can be built and run here"
    assert error.value.facts == ("help: pip install 'trtc[onnx]'; `trtc doctor` says more",)
