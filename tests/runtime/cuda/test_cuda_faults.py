"""What keeps an engine of target cuda from running is one sentence, and leaves nothing in the GPU's memory."""

from __future__ import annotations

import gc
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from emulated_cuda import change_plan, compile_emulated, install
from fake_cuda import CUresult, Failure, FakeDriver
from models import LIMITS, checkpoint

import trtc
from trtc.errors import MissingPackage, TrtcError
from trtc.runtime.cuda import cublaslt
from trtc.runtime.cuda.plan import read_plans

AGAIN = "help: the engine is damaged: copy it again, or compile it again"


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    """A copy of an engine, which a test may damage."""
    made = tmp_path_factory.getbasetemp() / "cuda-engine"
    if not made.exists():
        compile_emulated(monkeypatch, checkpoint("mha"), made, "float32", **LIMITS)
    shutil.copytree(made, tmp_path / "ENGINE")
    return tmp_path / "ENGINE"


def refused(engine: Path, driver: FakeDriver, call: Callable[[], object] | None = None) -> str:
    """The error of loading an engine whose hashes are not looked at; nothing is left behind."""
    with pytest.raises(TrtcError) as caught:
        call() if call else trtc.load(engine, verify=False)
    said = str(caught.value).replace(str(engine), "ENGINE")
    del caught
    gc.collect()
    assert not driver.memory and not driver.pinned
    return said


def test_machine_code_of_another_gpu(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = install(monkeypatch, FakeDriver(capability=(8, 0)))
    assert refused(engine, driver) == (
        "error: ENGINE/rank0/plan.json has machine code for compute capability 9.0, but this machine has Fake GPU "
        "(compute capability 8.0)\n"
        "  = help: compile again on this machine, with --target cuda"
    )


def test_machine_code_that_the_driver_does_not_take(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = install(monkeypatch)

    def load(image: bytes) -> None:
        raise Failure(CUresult.CUDA_ERROR_INVALID_IMAGE)

    monkeypatch.setattr(driver, "_cuModuleLoadData", load)
    said = refused(engine, driver)
    assert said.startswith("error: ENGINE/rank0/kernels/") and said.endswith(
        ".cubin cannot be loaded by Fake GPU (compute capability 9.0), whose driver is for CUDA 13.1: "
        "CUDA_ERROR_INVALID_IMAGE\n"
        "  = help: compile again for this GPU, or install a newer driver"
    )


def test_what_does_not_fit_is_refused_before_anything_is_allocated(
    engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = install(monkeypatch, FakeDriver(total=150_000))
    assert re.fullmatch(
        r"error: \d\.\d MB of GPU memory are needed \(weights 0\.1 MB, activations \d\.\d MB, "
        r"KV cache of 64 tokens 0\.0 MB\), but Fake GPU has 0\.1 MB free\n"
        "  = help: fewer sequences at a time, or fewer new tokens, need less",
        refused(engine, driver),
    )   # fmt: skip
    assert "cuMemAlloc" not in driver.calls and "cuModuleLoadData" not in driver.calls


def test_caches_that_do_not_fit(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = trtc.EngineBundle.open(engine)
    (plan,) = read_plans(bundle)
    cache = 64 * bundle.cache.bytes_per_token   # of one sequence
    driver = install(monkeypatch, FakeDriver(total=plan.weight_bytes + plan.scratch_bytes + cache + 4096))
    loaded = trtc.load(engine)
    held = dict(driver.memory)
    with pytest.raises(TrtcError, match=r"memory are needed \(activations \d\.\d MB, KV cache 0\.1 MB, .*\), but"):
        loaded.generate([[5, 6, 7]] * 4, max_new_tokens=40)
    assert driver.memory == held


def newer(plan: dict[str, Any]) -> None:
    plan["version"] = 2


def without_steps(plan: dict[str, Any]) -> None:
    del plan["phases"][0]["steps"]


def of_no_kernel(plan: dict[str, Any]) -> None:
    plan["phases"][0]["steps"][0]["kernel"] = 99


def of_no_kind(plan: dict[str, Any]) -> None:
    plan["phases"][0]["steps"][0]["kind"] = "jump"


def without_a_grid(plan: dict[str, Any]) -> None:
    del plan["phases"][0]["steps"][0]["grid"]


def without_a_number(plan: dict[str, Any]) -> None:
    plan["phases"][0]["steps"][0]["arguments"][-1] = {"f64": 1}


def without_weights(plan: dict[str, Any]) -> None:
    plan["weights"]["tensors"] = {}


@pytest.mark.parametrize(("edit", "message"), [
    (newer, "is a plan of version 2, but this trtc reads up to 1\n"
            "  = help: upgrade trtc, or compile the engine again with this one"),
    (without_steps, f"breaks its schema at $.phases[0]: 'steps' is a required property\n  = {AGAIN}"),
    (of_no_kernel, f": step 0 of decode-1 launches kernel 99, but there are COUNT\n  = {AGAIN}"),
    (of_no_kind, f": step 0 of decode-1 is a jump, but must be one of launch, matmul, copy\n  = {AGAIN}"),
    (without_a_grid, f": step 0 of decode-1 is a launch, but has no grid\n  = {AGAIN}"),
    (without_a_number, f": step 0 of decode-1 has an argument that is neither a place nor a number\n  = {AGAIN}"),
    (without_weights, f": step 0 of decode-1 uses weight NAME, but there is none\n  = {AGAIN}"),
])   # fmt: skip
def test_plans_that_are_damaged_or_newer(
    engine: Path, monkeypatch: pytest.MonkeyPatch, edit: Callable[[dict[str, Any]], None], message: str
) -> None:
    plan = json.loads((engine / "rank0/plan.json").read_text())
    names = (a["name"] for a in plan["phases"][0]["steps"][0]["arguments"] if a.get("at") == "weight")
    message = message.replace("COUNT", str(len(plan["kernels"]))).replace("NAME", next(names))
    change_plan(engine, edit)
    said = refused(engine, install(monkeypatch))
    assert said.removeprefix("error: ENGINE/rank0/plan.json").strip() == message.strip()


def test_a_plan_that_is_no_json(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = engine / "rank0/plan.json"
    for content, why in ((b"?", "is no JSON"), (b"[]", "holds no object")):
        file.write_bytes(content.ljust(file.stat().st_size))
        said = refused(engine, install(monkeypatch))
        assert said == f"error: ENGINE/rank0/plan.json is damaged: it {why}\n  = {AGAIN}"


def test_weights_whose_header_is_damaged(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = engine / "rank0/weights.safetensors"
    for begin in (b"\xff" * 8, file.read_bytes()[:8] + b"?"):
        file.write_bytes(begin + file.read_bytes()[len(begin) :])
        said = refused(engine, install(monkeypatch))
        assert said == (
            f"error: ENGINE/rank0/weights.safetensors does not begin as a safetensors file must\n  = {AGAIN}"
        )


def test_weights_of_another_size(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def edit(plan: dict[str, Any]) -> None:
        tensors = plan["weights"]["tensors"]
        tensors[min(tensors)]["bytes"] += 4

    change_plan(engine, edit)
    said = refused(engine, install(monkeypatch))
    assert said.startswith("error: ENGINE/rank0/weights.safetensors has ") and said.endswith(AGAIN)


def test_a_library_that_is_missing(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = cublaslt.load_library
    driver = install(monkeypatch)
    monkeypatch.setattr(cublaslt, "load_library", load)
    monkeypatch.setattr(cublaslt, "VERSIONS", (0,))   # which none has
    with pytest.raises(MissingPackage):
        trtc.load(engine)
    assert refused(engine, driver) == (
        "error: NVIDIA's cuBLAS is needed to run engines of target cuda, but is not installed\n"
        "  = help: pip install 'trtc[cuda]'"
    )


def test_a_library_that_is_newer_than_the_driver(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = install(monkeypatch, status=1)
    assert refused(engine, driver) == (
        "error: cuBLASLt 13.1 does not start on Fake GPU (compute capability 9.0), whose driver is for CUDA 13.1: "
        "the library was not initialized\n"
        "  = help: install a newer driver"
    )


def test_a_product_without_an_algorithm(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, algorithms=0)
    with pytest.raises(TrtcError) as caught:
        trtc.load(engine).generate([[5, 6, 7] * 10], max_new_tokens=1)
    assert str(caught.value) == (
        "error: cuBLASLt 13.1 has no algorithm for 30 x 32 by 32 x 96 in f32: "
        "the requested functionality is not supported"
    )
