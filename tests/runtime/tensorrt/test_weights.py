"""Weights beside a plan are uploaded piece by piece, and bound as inputs."""

from __future__ import annotations

import ctypes
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeDriver

from trtc.errors import TrtcError
from trtc.runtime.bundle import Weights
from trtc.runtime.gpu import upload as module
from trtc.runtime.gpu.device import open_device
from trtc.runtime.gpu.driver import open_driver
from trtc.runtime.gpu.stream import Stream
from trtc.runtime.tensorrt.weights import Uploaded

safetensors: Any = import_module("safetensors.numpy")


def bundle(folder: Path, arrays: dict[str, Any], names: dict[str, str]) -> Any:
    """A bundle as far as weights look at it; the file is safetensors' own."""
    safetensors.save_file(arrays, folder / "weights.safetensors", {"format": "pt"})
    weights = Weights("weights.safetensors", "inputs", names)
    return SimpleNamespace(path=folder, ranks=[SimpleNamespace(weights=weights)])


def upload(folder: Path, *arguments: Any, driver: FakeDriver | None = None) -> Uploaded:
    device = open_device(on=open_driver(driver or FakeDriver()))
    made = bundle(folder, *arguments)
    return Uploaded(made, made.ranks[0].weights, device, Stream(device))


def test_each_tensor_lies_on_the_gpu_under_the_name_of_its_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECE", 100)   # so that tensors take several, and pieces several turns
    random = np.random.default_rng(0)
    arrays = {name: random.standard_normal(size).astype(np.float16) for name, size in (("a", 333), ("b", 7), ("c", 50))}
    made = upload(tmp_path, arrays, {"in.a": "a", "in.b": "b", "in.c": "c"})
    for name, array in arrays.items():
        address = made.addresses[f"in.{name}"]
        assert address % 256 == 0
        assert ctypes.string_at(address, array.nbytes) == array.tobytes()


def test_a_tensor_that_the_file_lacks(tmp_path: Path) -> None:
    with pytest.raises(TrtcError) as caught:
        upload(tmp_path, {"a": np.zeros(3)}, {"in.b": "b"})
    assert str(caught.value).replace(str(tmp_path), "ENGINE") == (
        "error: ENGINE/weights.safetensors has no tensor b, but engine.json lists it"
    )


def test_weights_larger_than_the_gpu(tmp_path: Path) -> None:
    with pytest.raises(TrtcError, match=r"8.0 MB of GPU memory are needed \(weights 8.0 MB\), but Fake GPU has 1.0 MB"):
        upload(tmp_path, {"a": np.zeros(1_000_000)}, {"in.a": "a"}, driver=FakeDriver(total=1_000_000))
