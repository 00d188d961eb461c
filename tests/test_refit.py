"""``trtc.refit``: weights that take the place of others, and checkpoints that cannot."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorrt_rtx_bindings")

from commandline import MODEL

import trtc
from trtc.backend.bundle import HashingFile
from trtc.backend.tensorrt.diagnose import BuildError
from trtc.backend.tensorrt.refit import refit_plan
from trtc.errors import TrtcError
from trtc.ir import Graph, at, bf16, f32
from trtc.ir.ops import Add, Input, Weight
from trtc.runtime.bundle import EngineBundle

LIMITS: dict[str, Any] = {"target": "tensorrt-rtx", "max_batch_size": 2, "max_input_len": 8, "max_seq_len": 16}
safetensors: Any = import_module("safetensors.numpy")


def other(folder: Path, scale: float = 0.5, **config: Any) -> Path:
    """The shipped model with other numbers in its weights, or in its config."""
    shutil.copytree(MODEL, folder)
    tensors = safetensors.load_file(MODEL / "model.safetensors")
    scaled = {name: (array * scale).astype(array.dtype) for name, array in tensors.items()}
    safetensors.save_file(scaled, folder / "model.safetensors")
    said = json.loads((MODEL / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**said, **config}))
    return folder


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("engines") / "engine"
    trtc.compile(MODEL, out, **LIMITS, tensorrt=trtc.TensorRTOptions(weightless=True, optimization_level=1))
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_a_refitted_engine_is_the_one_that_a_build_makes_but_for_the_plan(engine: Path, tmp_path: Path) -> None:
    checkpoint = other(tmp_path / "model")
    trtc.compile(checkpoint, tmp_path / "want", **LIMITS, tensorrt=trtc.TensorRTOptions(weightless=True))
    bundle = trtc.refit(engine, checkpoint, tmp_path / "got")
    want, got, old = files(tmp_path / "want"), files(tmp_path / "got"), files(engine)
    assert set(got) == set(want) == set(old)
    assert got["rank0/weights.safetensors"] == want["rank0/weights.safetensors"] != old["rank0/weights.safetensors"]
    assert got["rank0/model.plan"] == old["rank0/model.plan"]
    assert bundle.builder == {"weightless": True, "optimization_level": 1} and bundle.source.path == str(checkpoint)
    EngineBundle.open(tmp_path / "got", verify=True)


def test_without_another_place_the_engine_is_replaced(engine: Path, tmp_path: Path) -> None:
    mine = tmp_path / "engine"
    shutil.copytree(engine, mine)
    trtc.refit(mine, other(tmp_path / "model"))
    assert files(mine)["rank0/weights.safetensors"] != files(engine)["rank0/weights.safetensors"]
    assert sorted(f.name for f in tmp_path.iterdir()) == ["engine", "model"]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"rms_norm_eps": 1e-3}, "the checkpoint computes with its weights what the engine does not"),
        ({"num_hidden_layers": 6}, "the checkpoint has no transformer.layers.6.input_layernorm.b, but the engine has"),
    ],
)
def test_checkpoints_of_another_shape_are_refused_and_nothing_changes(
    engine: Path, tmp_path: Path, config: dict[str, Any], said: str
) -> None:
    before = files(engine)
    with pytest.raises(TrtcError) as caught:
        trtc.refit(engine, other(tmp_path / "model", **config), tmp_path / "got")
    assert caught.value.message.startswith(said)
    assert files(engine) == before and [f.name for f in tmp_path.iterdir()] == ["model"]


def test_a_weight_of_another_shape_is_named(engine: Path, tmp_path: Path) -> None:
    checkpoint = other(tmp_path / "model", intermediate_size=176)
    tensors = safetensors.load_file(checkpoint / "model.safetensors")
    for name, array in tensors.items():
        if "gate_proj" in name or "up_proj" in name:
            tensors[name] = array[:176].copy()
        elif "down_proj" in name:
            tensors[name] = array[:, :176].copy()
    safetensors.save_file(tensors, checkpoint / "model.safetensors")
    with pytest.raises(TrtcError) as caught:
        trtc.refit(engine, checkpoint)
    assert caught.value.message == (
        "transformer.layers.0.mlp.fc+gate.weight is f16[352, 128] in the checkpoint, but f16[704, 128] in the engine"
    )


def test_an_engine_with_its_weights_for_good_says_how_to_have_others(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    trtc.compile(MODEL, tmp_path / "engine", target="onnx", max_batch_size=1)
    with pytest.raises(TrtcError) as caught:
        trtc.refit(tmp_path / "engine", MODEL)
    assert str(caught.value) == (
        f"error: {tmp_path}/engine has its weights for good\n"
        "  = help: compile it with --weightless, or with --refit to exchange them on a GPU"
    )


class Stand:
    """What `refit_plan` calls of TensorRT, recorded."""

    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    IErrorRecorder = ILogger = object
    bfloat16, ErrorCodeTRT = "bf16", SimpleNamespace(UNSPECIFIED_ERROR=0)

    def __init__(self, refuses: str = "", missing: tuple[str, ...] = (), loads: bool = True) -> None:
        self.given: dict[str, Any] = {}
        self.refuses, self.missing, self.loads = refuses, missing, loads

    def Weights(self, dtype: Any, pointer: int, count: int) -> tuple[Any, int, int]:
        return dtype, pointer, count

    def plan(self) -> bytes:
        return b"plan of " + ",".join(self.given).encode()

    def Runtime(self, logger: Any) -> Any:
        def load(plan: bytes) -> Any:
            return SimpleNamespace(serialize=self.plan) if self.loads else None

        return SimpleNamespace(deserialize_cuda_engine=load)

    def Refitter(self, engine: Any, logger: Any) -> Any:
        def take(name: str, weights: Any) -> bool:
            self.given[name] = weights
            return name != self.refuses

        return SimpleNamespace(
            set_named_weights=take, get_missing_weights=lambda: list(self.missing), refit_cuda_engine=lambda: True
        )


def refitted(stand: Stand, file: Path) -> bytes:
    x = Input("x", bf16["B", 4])
    with at("first"):
        graph = Graph("g", (x,), {"y": Add(Add(x, Weight("a", bf16[1, 4])), Weight("b", bf16[1, 4]))}, {"B": (1, 4)})
    tensors = {name: np.ones((1, 4), bf16.numpy) for name in "ab"}
    with ThreadPoolExecutor(1) as pool, file.open("wb") as out:
        refit_plan(stand, b"plan", graph, tensors, HashingFile(out, pool))
    return file.read_bytes()


def test_a_plan_is_refitted_by_the_names_of_its_weights(tmp_path: Path) -> None:
    stand = Stand()
    assert refitted(stand, tmp_path / "plan") == b"plan of first.b,first.b.1"
    assert [(dtype, count) for dtype, _, count in stand.given.values()] == [("bf16", 4)] * 2


@pytest.mark.parametrize(
    ("stand", "said"),
    [
        (Stand(refuses="first.b"), "TensorRT refuses the network: first.b cannot be exchanged"),
        (Stand(missing=("first.c",)), "TensorRT refuses the network: first.c must be exchanged, too"),
        (Stand(loads=False), "TensorRT refuses the network: it does not load the plan"),
    ],
)
def test_what_tensorrt_refuses_is_named(stand: Stand, said: str, tmp_path: Path) -> None:
    with pytest.raises(BuildError) as caught:
        refitted(stand, tmp_path / "plan")
    assert caught.value.message == said


def test_refitting_a_plan_needs_a_gpu(tmp_path: Path) -> None:
    x = Input("x", f32["B", 4])
    rtx = pytest.importorskip("tensorrt_rtx_bindings")
    with pytest.raises(BuildError) as caught:
        refit_plan(rtx, b"plan", Graph("g", (x,), {"y": x}, {"B": (1, 4)}), {}, None)   # type: ignore[arg-type]
    assert caught.value.message.startswith("TensorRT-RTX refuses the network: ")
