"""What keeps a plan from being loaded or run is one sentence, and leaves nothing behind."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_cuda import FakeDriver
from fake_tensorrt import FakeModule, compile_plan, install

import trtc
from trtc.errors import TrtcError
from trtc.runtime.gpu.device import open_device
from trtc.runtime.gpu.driver import open_driver
from trtc.runtime.tensorrt.runtime_cache import RuntimeCache

MODEL = Path(__file__).parents[3] / "examples" / "shakespeare"
LIMITS: dict[str, Any] = {"dtype": "float16", "max_batch_size": 2, "max_input_len": 16, "max_seq_len": 64}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        return compile_plan(patch, MODEL, tmp_path_factory.mktemp("plan") / "engine", "tensorrt:8.6", **LIMITS)


@pytest.fixture
def engine(built: Path, tmp_path: Path) -> Path:
    """A copy of the engine, to be damaged."""
    return shutil.copytree(built, tmp_path / "engine")


def edit(engine: Path, said: dict[str, Any] | None = None, **changes: Any) -> None:
    """Change what the plan says of itself, and what engine.json says."""
    plan, spec = engine / "rank0/model.plan", json.loads((engine / "engine.json").read_text())
    plan.write_text(json.dumps({**json.loads(plan.read_text()), **changes}))
    spec["files"]["rank0/model.plan"]["bytes"] = plan.stat().st_size
    (engine / "engine.json").write_text(json.dumps({**spec, **(said or {})}))


def refused(call: Callable[[], object], engine: Path) -> str:
    with pytest.raises(TrtcError) as caught:
        call()
    return str(caught.value).replace(str(engine), "ENGINE")


def loading(monkeypatch: pytest.MonkeyPatch, engine: Path, driver: FakeDriver | None = None, **modules: Any) -> str:
    """What loading says where these modules are installed; by default that of the plan's version."""
    driver = driver or FakeDriver()
    found = {name: FakeModule(driver, **how) for name, how in (modules or {"tensorrt": {}}).items()}
    install(monkeypatch, driver, found)
    return refused(lambda: trtc.load(engine, verify=False), engine)


def test_a_plan_of_another_gpu(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(engine, compute="8.6", version="8.6.0")
    assert loading(monkeypatch, engine) == (
        "error: ENGINE/rank0/model.plan was built for a GPU of compute capability 8.6, "
        "but this machine has Fake GPU (compute capability 9.0)\n  = help: compile on this machine"
    )


def test_a_plan_of_another_version(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert loading(monkeypatch, engine, tensorrt={"__version__": "10.3.0"}, tensorrt_lean={"__version__": "8.6.0"}) == (
        "error: ENGINE was built by tensorrt 8.6 and is not version-compatible, "
        "but tensorrt 10.3.0 and tensorrt_lean 8.6.0 are installed\n"
        "  = help: compile again with what is installed, or install version 8.6"
    )


def test_a_plan_whose_own_version_is_another(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(engine, version="8.6.1")
    assert loading(monkeypatch, engine) == (
        "error: ENGINE/rank0/model.plan was built by TensorRT 8.6, but this is 8.6.0\n  = help: compile again"
    )


def test_a_truncated_plan_is_found_by_its_size(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = engine / "rank0/model.plan"
    size = plan.stat().st_size
    plan.write_bytes(plan.read_bytes()[:1000])
    assert loading(monkeypatch, engine) == (
        f"error: ENGINE/rank0/model.plan has 1000 bytes, but engine.json says {size}\n"
        "  = help: the engine is damaged: copy it again, or compile it again"
    )


def test_a_damaged_plan(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = engine / "rank0/model.plan"
    plan.write_bytes(b"?" * plan.stat().st_size)
    assert loading(monkeypatch, engine) == (
        "error: ENGINE/rank0/model.plan is damaged, or no plan of TensorRT 8.6.0\n"
        "  = help: copy the engine again, or compile it again"
    )


def test_no_tensorrt_is_installed(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeDriver(), {})
    assert refused(lambda: trtc.load(engine), engine) == (
        "error: tensorrt is needed to run tensorrt engines, but is not installed\n"
        "  = help: pip install 'trtc[tensorrt]'"
    )


def test_a_plan_larger_than_the_gpu(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert loading(monkeypatch, engine, FakeDriver(total=20_000)) == (
        f"error: ENGINE/rank0/model.plan has {(engine / 'rank0/model.plan').stat().st_size / 1e6:.1f} MB, "
        "but Fake GPU has 0.0 MB of memory free"
    )


def test_a_plan_that_the_gpu_has_no_memory_to_load(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(engine, version="8.6.0")
    said = loading(monkeypatch, engine, FakeDriver(), tensorrt={"broken": "load"})
    assert said.startswith("error: ENGINE/rank0/model.plan needs more memory than Fake GPU has free, ")


def test_engine_json_lists_what_the_plan_lacks(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = json.loads((engine / "engine.json").read_text())["ranks"]
    ranks[0]["inputs"].append({"name": "bias", "dtype": "f16", "shape": [4]})
    edit(engine, {"ranks": ranks}, version="8.6.0")
    assert loading(monkeypatch, engine) == (
        "error: ENGINE/rank0/model.plan has no tensor bias, but engine.json lists it\n  = help: compile again"
    )


def opened(
    monkeypatch: pytest.MonkeyPatch, engine: Path, driver: FakeDriver | None = None, **how: Any
) -> tuple[Any, FakeModule]:
    edit(engine, version="8.6.0")
    driver = driver or FakeDriver()
    module = FakeModule(driver, **how)
    install(monkeypatch, driver, {"tensorrt": module})
    return trtc.load(engine, verify=False), module


def test_caches_larger_than_the_gpu(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = FakeDriver(total=120_000)
    loaded, _ = opened(monkeypatch, engine, driver)
    said = refused(lambda: loaded.generate([[5], [6]], max_new_tokens=60), engine)
    assert said == (
        "error: 0.3 MB of GPU memory are needed (activations 0.0 MB, KV cache 0.2 MB, inputs and outputs 0.1 MB), "
        "but Fake GPU has 0.1 MB free\n  = help: fewer sequences at a time, or fewer new tokens, need less"
    )
    assert not driver.memory and "cuMemAlloc" not in driver.calls


@pytest.mark.parametrize(("broken", "what"), [("context", "an execution context"), ("run", "a run of the engine")])
def test_tensorrt_itself_runs_out_of_memory(
    engine: Path, monkeypatch: pytest.MonkeyPatch, broken: str, what: str
) -> None:
    driver = FakeDriver()
    loaded, module = opened(monkeypatch, engine, driver, broken=broken)
    said = refused(lambda: loaded.generate([[5]], max_new_tokens=4), engine)
    assert said.startswith(f"error: {what} needs more GPU memory than Fake GPU has free, 1,07")
    module.broken = ""
    assert len(loaded.generate([[5]], max_new_tokens=4)[0].token_ids) == 4   # it goes on when there is room


def test_all_memory_goes_with_the_engine(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = FakeDriver()
    loaded, _ = opened(monkeypatch, engine, driver)
    loaded.generate([[5]], max_new_tokens=4)
    assert driver.memory and driver.pinned
    del loaded
    gc.collect()
    assert not driver.memory and not driver.pinned


def test_logits_that_are_no_numbers_are_found_on_request(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, _ = opened(monkeypatch, engine, broken="logits")
    assert refused(lambda: loaded.generate([[5]], max_new_tokens=4, check_numerics=True), engine) == (
        "error: the engine computed 1024 of 1024 logits that are no finite numbers, the first of token 0 (nan)\n"
        "  = help: compile with --dtype bfloat16 or float32"
    )
    assert refused(lambda: loaded.generate([[5]], max_new_tokens=4), engine).startswith(
        "error: the engine computed a logit of nan, but logits must be finite"
    )


def test_an_address_that_is_wrong_is_an_error_of_the_gpu(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, _ = opened(monkeypatch, engine)
    loaded._session._weights = SimpleNamespace(addresses={"logits": 1 << 20})
    assert refused(lambda: loaded.generate([[5]], max_new_tokens=2), engine) == (
        "error: the GPU refuses cuEventSynchronize: illegal address (CUDA_ERROR_ILLEGAL_ADDRESS)"
    )


@pytest.mark.parametrize(
    "modules", [{"tensorrt": {}}, {"tensorrt_lean": {"lean": True}}, {"tensorrt": {"__version__": "10.3.0"}}],
    ids=["full", "lean", "later"],
)   # fmt: skip
def test_a_version_compatible_plan_runs_with_each_runtime(
    engine: Path, monkeypatch: pytest.MonkeyPatch, modules: Any
) -> None:
    loaded, _ = opened(monkeypatch, engine)
    want = loaded.generate([[5, 6]], max_new_tokens=5)
    edit(engine, {"builder": {"version_compatible": True}}, compatible=True)
    driver = FakeDriver()
    install(monkeypatch, driver, {name: FakeModule(driver, **how) for name, how in modules.items()})
    assert trtc.load(engine, verify=False).generate([[5, 6]], max_new_tokens=5) == want


class Config:
    """The runtime config of a stand-in for TensorRT-RTX: its cache counts how often it was written."""

    def __init__(self) -> None:
        self.cache: Config.Cache | None = None

    class Cache:
        data = b"0"

        def deserialize(self, data: bytes) -> bool:
            self.data = data
            return data.isdigit()

        def serialize(self) -> bytes:
            return b"%d" % (int(self.data) + 1)

    def create_runtime_cache(self) -> Config.Cache:
        return Config.Cache()

    def set_runtime_cache(self, cache: Config.Cache) -> None:
        self.cache = cache


def test_the_runtime_cache_of_rtx_is_kept_beside_the_plan(tmp_path: Path) -> None:
    device = open_device(on=open_driver(FakeDriver()))
    for count in (b"1", b"2"):
        cache = RuntimeCache(tmp_path / "model.plan", device)
        one, other = Config(), Config()
        cache.attach(one)
        cache.attach(other)
        assert one.cache is other.cache is not None
        del cache
        gc.collect()
        assert [f.name for f in tmp_path.iterdir()] == ["model.fake-gpu.cache"]
        assert (tmp_path / "model.fake-gpu.cache").read_bytes() == count
    RuntimeCache(tmp_path / "model.plan", device).attach(object())   # TensorRT has none


def test_a_runtime_cache_that_cannot_be_written_is_let_go(tmp_path: Path) -> None:
    cache = RuntimeCache(tmp_path / "missing" / "model.plan", open_device(on=open_driver(FakeDriver())))
    cache.attach(Config())
    del cache
    gc.collect()
    assert not list(tmp_path.iterdir())
