"""Plans without their weights are refitted as they are loaded, over stand-ins for the GPU and for TensorRT."""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeDriver
from fake_tensorrt import FakeModule, compile_plan

import trtc
from trtc.backend.bundle import bundle as bundle_of
from trtc.backend.tensorrt.weightless import said_of, write_weights
from trtc.backend.tensorrt.weights import weights
from trtc.errors import TrtcError
from trtc.frontend import open_checkpoint
from trtc.ir.text import parse
from trtc.runtime.gpu.device import Device, open_device
from trtc.runtime.gpu.driver import open_driver

MODEL = Path(__file__).parents[3] / "examples" / "shakespeare"
PROMPTS = ["ROMEO:", "God"]
LIMITS: dict[str, Any] = {"dtype": "float16", "max_batch_size": 2, "max_input_len": 8, "max_seq_len": 32}


class Refitter:
    """Keeps what it is given, as numbers."""

    given: dict[str, Any]
    refuses, missing, done = "", list[str](), True

    def __init__(self, engine: Any, logger: Any) -> None:
        type(self).given = {}

    def set_named_weights(self, name: str, weights: Any) -> bool:
        _, pointer, count = weights
        held = np.frombuffer((ctypes.c_byte * (2 * count)).from_address(pointer), np.float16)
        self.given[name] = (weights[0], held.copy())
        return name != self.refuses

    def get_missing_weights(self) -> list[str]:
        return self.missing

    def refit_cuda_engine(self) -> bool:
        return self.done


def Weights(dtype: str, pointer: int, count: int) -> tuple[str, int, int]:
    return dtype, pointer, count


@pytest.fixture
def stripped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An engine whose engine.json says that its weights lie beside it."""
    made, out = compile_plan(monkeypatch, MODEL, tmp_path / "made", "tensorrt:10.9", **LIMITS), tmp_path / "engine"
    graph, engine = parse((made / "graph.trtc").read_text()), json.loads((made / "engine.json").read_text())
    with bundle_of(out, 0) as writer:
        for name in engine.pop("files"):
            writer.add(name, made / name)
        write_weights(writer, "rank0/weights.safetensors", weights(graph), open_checkpoint(MODEL).source)
        engine["ranks"][0]["weights"] = said_of(graph, "rank0/weights.safetensors", "refit")
        writer.finish(engine)
    driver = FakeDriver()
    module: Any = FakeModule(driver, trtc.EngineBundle.open(out).target.version, old=False)
    module.Refitter, module.Weights, module.float16, module.float32 = Refitter, Weights, "half", "float"
    monkeypatch.setattr("trtc.runtime.tensorrt.module.MODULES", {"tensorrt": ("tensorrt",)})
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    device = open_device(on=open_driver(driver))

    def opened(number: int) -> Device:
        return device

    monkeypatch.setattr("trtc.runtime.tensorrt.session.open_device", opened)
    return out


def test_each_weight_is_given_by_its_name_before_anything_runs(stripped: Path) -> None:
    engine = trtc.load(stripped)
    names = {item.name: item.value for item in weights(parse((stripped / "graph.trtc").read_text()))}
    assert set(Refitter.given) == set(names) and {kind for kind, _ in Refitter.given.values()} == {"half"}
    source = open_checkpoint(MODEL).source
    table = Refitter.given["transformer.vocab_embedding.table"][1]
    assert (table == source["model.embed_tokens.weight"].reshape(-1)).all()
    assert [len(r.token_ids) for r in engine.generate(PROMPTS, max_new_tokens=4)] == [4, 4]


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ({"refuses": "transformer.ln_f.b"}, "fails at the weight transformer.ln_f.b: it gives no reason"),
        ({"missing": ["x"]}, "has no weight x, but the plan needs it"),
        ({"done": False}, "fails at the refit of its weights: it gives no reason"),
    ],
)
def test_weights_that_are_not_taken(
    stripped: Path, trouble: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in trouble.items():
        monkeypatch.setattr(Refitter, name, value)
    with pytest.raises(TrtcError) as caught:
        trtc.load(stripped)
    assert said in caught.value.message


def test_the_lean_runtime_refits_nothing(stripped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["tensorrt"], "__name__", "tensorrt_lean", raising=False)
    monkeypatch.delattr(sys.modules["tensorrt"], "Refitter")
    with pytest.raises(TrtcError) as caught:
        trtc.load(stripped)
    assert str(caught.value).replace(str(stripped), "ENGINE") == (
        "error: ENGINE has a plan without weights, but tensorrt_lean cannot give it any\n"
        "  = help: run it with the full TensorRT"
    )
