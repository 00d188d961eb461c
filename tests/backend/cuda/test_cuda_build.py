"""Engines of target cuda: the files of a bundle, beside what safetensors and the PTX of the kernels say."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commandline import MODEL

import trtc
from trtc.backend.backends import backend
from trtc.backend.cuda import target as cuda_target
from trtc.backend.cuda.build import stored_bytes
from trtc.backend.cuda.plan import plans_of
from trtc.backend.gpu import GPU
from trtc.backend.kernels.nvrtc import compile_source
from trtc.backend.targets import target
from trtc.compiler import plan, read_model
from trtc.errors import TrtcError
from trtc.ir.errors import IRError
from trtc.ir.materialize import materialize
from trtc.runtime.bundle import EngineBundle

pytest.importorskip("cuda.bindings.nvrtc")
LIMITS: dict[str, Any] = {"max_batch_size": 2, "max_input_len": 16, "max_seq_len": 64}
BYTES = {"i32": 4, "f32": 4, "i64": 8}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> EngineBundle:
    return trtc.compile(MODEL, tmp_path_factory.mktemp("cuda") / "engine", target="cuda:90", **LIMITS)


def document(engine: EngineBundle) -> dict[str, Any]:
    return json.loads((engine.path / engine.ranks[0].engine).read_text())


def test_the_bundle_is_whole(engine: EngineBundle) -> None:
    opened = EngineBundle.open(engine.path)   # which checks every file's hash
    said = document(engine)
    files = {k["file"] for k in said["kernels"]} | {said["weights"]["file"]}
    assert {f"rank0/{name}" for name in files} <= set(opened.files)
    assert all((engine.path / "rank0" / k["file"]).read_bytes()[:4] == b"\x7fELF" for k in said["kernels"])
    assert (opened.target.name, opened.target.version, opened.ranks[0].engine) == ("cuda", "90", "rank0/plan.json")
    greatest = max(said["phases"], key=lambda p: p["scratch_bytes"])
    assert opened.builder == {
        "kernels": len(said["kernels"]), "scratch_bytes": greatest["scratch_bytes"],
        "scratch_ratio": round(greatest["peak"] / greatest["lower_bound"], 3),
    }   # fmt: skip


def test_weights_are_tensors_of_a_safetensors_file(engine: EngineBundle) -> None:
    said = document(engine)["weights"]
    model = read_model(MODEL, **LIMITS)
    made = plans_of(plan(model, target="cuda:90").graph, [90])[0]
    with import_module("safetensors").safe_open(engine.path / "rank0" / said["file"], "numpy") as file:
        assert set(file.keys()) == set(said["tensors"])
        for stored in made.weights.stored:
            want = materialize(stored.value, model.checkpoint.source)
            got = file.get_tensor(stored.name)
            assert got.dtype == want.dtype and said["tensors"][stored.name]["bytes"] == want.nbytes
            np.testing.assert_array_equal(got, want)
    graph = plan(model, target="cuda:90").graph
    assert stored_bytes(graph) <= made.weights.bytes <= 1.01 * stored_bytes(graph)


def test_launches_pass_what_the_kernels_take(engine: EngineBundle) -> None:
    """The parameters in the PTX of each kernel, beside the arguments of each launch of it."""
    said = document(engine)
    made = plans_of(plan(read_model(MODEL, **LIMITS), target="cuda:90").graph, [90])[0]
    taken: list[list[int]] = []
    for kernel, launch in made.kernels.values():
        ptx = compile_source(kernel.source, launch.defines, 90).ptx
        match = re.search(rf"\.visible \.entry {launch.entry}\((.*?)\)", ptx, re.DOTALL)
        assert match
        taken.append([int(bits) // 8 for bits in re.findall(r"\.param \.\w(\d+)", match.group(1))])
    launches = [s for p in said["phases"] for s in p["steps"] if s["kind"] == "launch"]
    assert len(launches) > 150
    for step in launches:
        passed = [8 if "at" in a else BYTES[next(iter(a))] for a in step["arguments"]]
        assert passed == taken[step["kernel"]], step["op"]


def test_nothing_stays_of_a_build_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr("trtc.backend.cuda.build.write", full)
    with pytest.raises(TrtcError, match=r"needs .* but its disk has"):
        trtc.compile(MODEL, tmp_path / "engine", target="cuda:90", **LIMITS)
    assert list(tmp_path.iterdir()) == []


def test_without_the_bindings_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(_: str) -> None:
        return None

    monkeypatch.setattr("trtc.backend.backends.find_spec", nothing)
    with pytest.raises(TrtcError) as error:
        _ = backend("cuda").build
    assert error.value.message == "cuda.bindings is needed to build for target cuda, but is not installed"
    assert error.value.facts == ("help: pip install 'trtc[cuda]'",)


def test_targets_are_architectures() -> None:
    assert str(target("cuda:120")) == "cuda:120"
    assert str(target("cuda:90,120,80,90")) == "cuda:80,90,120"
    for wanted, said in {"75": "75", "80,9.0": "9.0", "80,": "empty"}.items():
        with pytest.raises(IRError) as error:
            target(f"cuda:{wanted}")
        known = "80, 86, 89, 90, 100, 120"
        assert error.value.message == f"the architecture of target cuda is {said}, but must be one of {known}"
        assert error.value.facts == ("help: --target cuda:80,90 is for several",)


@pytest.mark.parametrize(("capability", "found"), [
    ("9.0", 90), ("8.7", 86), ("8.9", 89), ("12.1", 120), ("7.5", None), ("10.0", 100), ("10.3", 100),
    ("11.0", None), ("", None),
])   # fmt: skip
def test_the_architecture_is_that_of_the_gpu(
    capability: str, found: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [GPU("GPU", capability, 1 << 34, 1e12, 1e14)] if capability else []
    monkeypatch.setattr(cuda_target, "gpus", lambda: made)
    assert cuda_target.installed() == found
    assert target("cuda").version == str(found or 90)
