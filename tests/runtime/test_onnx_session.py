"""ONNX Runtime sessions: numbers, buffers in place, errors."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from handmade import Tiny, write_bundle
from onnx import helper

from trtc.errors import TrtcError
from trtc.runtime.bundle import EngineBundle
from trtc.runtime.onnx import OnnxSession
from trtc.runtime.session import open_session

CACHES = ["layers.0.key_cache", "layers.0.value_cache"]


def ints(*values: Any) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.array(values, np.int32)


def test_prefill_and_decode_of_a_ragged_batch(tiny: Tiny) -> None:
    session = open_session(EngineBundle.open(tiny.path))
    texts = [[1, 2, 3, 4], [5], [6, 7]]
    session.start(3, 16)
    got = session.forward(ints([1, 2, 3, 4], [5, 0, 0, 0], [6, 7, 0, 0]), ints(4, 1, 2), ints(0, 0, 0))
    np.testing.assert_allclose(got, [tiny.logits(t) for t in texts], atol=1e-5)   # f32, sums of 32 terms
    past = ints(4, 1, 2)
    for step in range(8):
        new = [(step * 3 + row) % 32 for row in range(3)]
        got = session.forward(ints(*([n] for n in new)), ints(1, 1, 1), past)
        texts = [[*t, n] for t, n in zip(texts, new, strict=True)]
        np.testing.assert_allclose(got, [tiny.logits(t) for t in texts], atol=1e-5)
        past += 1


def test_caches_are_updated_in_place(tiny: Tiny) -> None:
    """ONNX Runtime reads and writes a cache at one address, and a step changes only the row it appends."""
    session: Any = OnnxSession(EngineBundle.open(tiny.path), 1)
    session.start(2, 16)
    session.forward(ints([1, 2, 3], [4, 5, 6]), ints(3, 3), ints(0, 0))
    before = {name: session._buffers[name].copy() for name in CACHES}
    addresses = {name: buffer.ctypes.data for name, buffer in session._buffers.items()}
    for step in range(5):
        session.forward(ints([7], [8]), ints(1, 1), ints(3 + step, 3 + step))
    outputs = dict(zip(["logits", "key", "value"], session._steps[1].binding.get_outputs(), strict=True))
    for short, name in (("key", CACHES[0]), ("value", CACHES[1])):
        assert outputs[short].data_ptr() == addresses[name] == session._buffers[f"{name}.next"].ctypes.data
        after = session._buffers[name]
        np.testing.assert_array_equal(after[:, :, :3], before[name][:, :, :3])
        np.testing.assert_array_equal(after[:, :, 8:], before[name][:, :, 8:])
        assert (after[:, :, 3:8] != before[name][:, :, 3:8]).all()
    assert outputs["logits"].data_ptr() == addresses["logits"]


def test_bindings_are_made_once_a_shape(tiny: Tiny) -> None:
    session: Any = OnnxSession(EngineBundle.open(tiny.path), 1)
    session.start(1, 16)
    session.forward(ints([1, 2]), ints(2), ints(0))
    session.forward(ints([1]), ints(1), ints(2))
    decode = session._steps[1]
    session.forward(ints([1]), ints(1), ints(3))
    session.start(1, 16)
    session.forward(ints([1, 2, 3]), ints(3), ints(0))
    assert session._steps.keys() == {1, 3} and session._steps[1] is decode
    session.start(2, 16)
    assert session._steps == {}


@pytest.mark.parametrize(("dtype", "number"), [("f32", 1), ("f16", 10), ("bf16", 16)])
def test_caches_and_logits_of_every_float(tmp_path: Path, dtype: str, number: int) -> None:
    """The engine adds the token to its cache and gives the sum as logits: small integers are exact in all types."""
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["ids"], to=1),
        helper.make_node("Cast", ["cache"], ["wide"], to=1),
        helper.make_node("Add", ["wide", "ids"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["cache.next"], to=number),
        helper.make_node("Cast", ["sum"], ["logits"], to=number),
    ]
    cache = {"name": "cache", "dtype": dtype, "shape": ["B", 1]}
    after = {**cache, "name": "cache.next", "alias": "cache"}
    path = write_bundle(tmp_path, nodes, {}, vocab_size=1, logits=dtype, inputs=[cache], outputs=[after])
    session = open_session(EngineBundle.open(path))
    session.start(2, 4)
    for step in range(1, 5):
        got = session.forward(ints([3], [20]), ints(1, 1), ints(step, step))
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, [[3 * step], [20 * step]])


def edited(tiny: Tiny, folder: Path, **changes: Any) -> EngineBundle:
    """Return a copy of the bundle with other words in its engine.json."""
    path = shutil.copytree(tiny.path, folder / "engine")
    spec = json.loads((path / "engine.json").read_text())
    (path / "engine.json").write_text(json.dumps({**spec, **changes}))
    return EngineBundle.open(path, verify=False)


def refusal(bundle: EngineBundle) -> str:
    with pytest.raises(TrtcError) as error:
        open_session(bundle)
    return str(error.value).replace(str(bundle.path), "ENGINE")


def test_a_target_that_cannot_run_here(tiny: Tiny, tmp_path: Path) -> None:
    assert refusal(edited(tiny, tmp_path, target={"name": "abacus", "version": "1.7.1"})) == (
        "error: ENGINE was built for abacus 1.7.1, but this trtc runs onnx, tensorrt, tensorrt-rtx and cuda engines\n"
        "  = help: trtc compile MODEL_DIR -o ENGINE_DIR --target onnx"
    )


def test_an_engine_of_several_ranks(tiny: Tiny, tmp_path: Path) -> None:
    ranks = json.loads((tiny.path / "engine.json").read_text())["ranks"]
    bundle = edited(tiny, tmp_path, ranks=[*ranks, {**ranks[0], "rank": 1}])
    assert refusal(bundle) == "error: ENGINE has 2 ranks, but this trtc runs engines of one rank"


def test_a_model_that_onnx_runtime_cannot_load(tiny: Tiny, tmp_path: Path) -> None:
    bundle = edited(tiny, tmp_path)
    (bundle.path / "rank0/model.onnx").write_bytes(b"not a model")
    assert refusal(bundle) == (
        f"error: ONNX Runtime {ort.__version__} cannot load ENGINE/rank0/model.onnx, built for 1.0: "
        "[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : "
        "Load model from ENGINE/rank0/model.onnx failed:Protobuf parsing failed."
    )


def test_onnx_runtime_is_not_installed(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert refusal(EngineBundle.open(tiny.path)) == (
        "error: onnxruntime is needed to run onnx engines, but is not installed\n  = help: pip install 'trtc[onnx]'"
    )
