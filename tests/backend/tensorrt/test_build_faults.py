"""What can go wrong as a plan is built: each is one sentence, and nothing stays behind."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("tensorrt_rtx_bindings")

from fake_cuda import FakeDriver
from tensorrt_models import BASE, Model, model

from trtc.backend.bundle import HashingFile, bundle
from trtc.backend.tensorrt import build as building
from trtc.backend.tensorrt import serialize
from trtc.backend.tensorrt.bindings import complaints, module
from trtc.backend.tensorrt.build import begin, build
from trtc.backend.tensorrt.configure import load_timing_cache
from trtc.backend.tensorrt.diagnose import BuildError, Diagnostics
from trtc.backend.tensorrt.options import Options
from trtc.backend.tensorrt.target import tensorrt, tensorrt_rtx
from trtc.backend.tensorrt.timing_cache import check_place, save_timing_cache
from trtc.errors import TrtcError
from trtc.ir import f16
from trtc.runtime.gpu.driver import open_driver


@pytest.fixture(scope="module")
def made() -> Model:
    return model(BASE, f16)


def failing(made: Model, folder: Path, **more: Any) -> str:
    """What a build says that must fail, and leave nothing."""
    with pytest.raises(TrtcError) as caught, bundle(folder / "engine", 0) as writer:
        given: dict[str, Any] = {"target": tensorrt_rtx(""), **more}
        build(made.lowered, made.tensors, writer, "rank0", **given)
    assert list(folder.iterdir()) == []
    return str(caught.value)


def test_another_version_is_installed(made: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(product: str) -> Any:
        return SimpleNamespace(__version__="10.9.0.34")

    monkeypatch.setattr(building, "module", fake)
    assert failing(made, tmp_path, target=tensorrt("11.0")) == (
        "error: tensorrt:11.0 is asked for, but TensorRT 10.9.0.34 is installed\n"
        "  = help: --target tensorrt, or install 11.0"
    )


def test_the_package_is_missing(made: Model, tmp_path: Path) -> None:
    if find_spec("tensorrt"):
        pytest.skip("it is installed here")
    said = failing(made, tmp_path, target=tensorrt("10.9"))
    assert said.startswith("error: tensorrt is needed to build for target tensorrt, but is not installed\n")


def nothing(*_: object) -> None:
    """Stands for what gives None."""


def no_memory(*_: object) -> Any:
    raise MemoryError


def complains(line: str) -> Callable[..., bool]:
    def built(emit: Any, *_: object) -> bool:
        emit.diagnostics.lines.append(line)
        return False

    return built


NO_MEMORY = "error: TensorRT-RTX has not the memory to build the network\n"


@pytest.mark.parametrize(
    "built",
    [
        no_memory,
        complains("IBuilder::build: Error Code 2: OutOfMemory (Requested size was 12884901888 bytes.)"),
        complains("IBuilder::build: Error Code 1: Internal Error (Unexpected exception std::bad_alloc)"),
        complains("[x] Error Code 1: Myelin ([y.h:12: run] MyelinCheckException: t.h:47: CHECK(p) failed.)"),
        complains("IBuilder::build: Error Code 1: Cuda Runtime (out of memory)"),
    ],
)
def test_out_of_memory(built: Any, made: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serialize, "_built", built)
    said = failing(made, tmp_path)
    assert said.startswith(NO_MEMORY) and "\n  = help: a smaller --max-batch-size" in said


def test_other_processes_fill_the_gpu(made: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT has other words for it then, such as these of 8.6."""
    driver = FakeDriver(total=80_000_000)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", driver)   # type: ignore[arg-type]
    monkeypatch.setattr(serialize, "_built", complains("[x.cpp::f::1] Error Code 1: Cuda Runtime (invalid handle)"))
    assert failing(made, tmp_path) == "error: TensorRT-RTX refuses the network: invalid handle"
    _, taken = open_driver(driver).api.cuMemAlloc(78_900_000)
    assert failing(made, tmp_path) == (
        "error: TensorRT-RTX has not the memory to build the network: 1.1 MB of the GPU's 80.0 MB are free\n"
        "  = TensorRT-RTX refuses the network: invalid handle\n  = help: nvidia-smi tells which processes hold it"
    )
    assert list(driver.memory) == [taken]


def test_the_disk_is_full(made: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = HashingFile.write

    def write(file: HashingFile, data: bytes) -> int:
        if file.bytes + len(data) > 100_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(file, data)

    monkeypatch.setattr(HashingFile, "write", write)
    said = failing(made, tmp_path)
    assert said.startswith(f"error: {tmp_path}/engine needs ") and "free some space" in said


def test_a_plan_that_is_not_there_and_no_reason(made: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serialize, "_built", nothing)
    assert failing(made, tmp_path) == (
        "error: TensorRT-RTX refuses the network: it built no plan and gave no reason"
    )


def test_an_error_that_is_only_logged_fails_the_next_check(made: Model) -> None:
    """Some calls tell the logger and not the recorder, and all go on as if nothing were."""
    trt = module("tensorrt-rtx")
    _, emit = begin(trt, made.lowered)
    emit.diagnostics.check()
    complaints.append("IBuilderConfig::setFlag: Error Code 3: API Usage Error (flag is not supported)")
    with pytest.raises(BuildError, match="TensorRT-RTX refuses the network: flag is not supported"):
        emit.diagnostics.check()
    emit.diagnostics.check()   # it is said once


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (" with error: 35. Please check your CUDA installation", "error: TensorRT builds on a machine with a GPU only"),
        (" with error: 2. Please check your CUDA installation",
         "error: the GPU has no memory left for another process\n  = help: nvidia-smi tells which processes hold it"),
        (" with error: 804", "error: TensorRT builds on a machine with a GPU only\n"
                             "  = CUDA initialization failure with error: 804"),
    ],
)   # fmt: skip
def test_why_there_is_no_builder(made: Model, line: str, said: str) -> None:
    """It warns, and its bindings raise a TypeError."""

    def null(log: Any) -> Any:
        log.log(SimpleNamespace(name="WARNING"), f"CUDA initialization failure{line}")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    class Logger:
        def __init__(self) -> None: ...

    fake = type("trt", (), {"Builder": null, "IErrorRecorder": object, "ILogger": Logger})
    with pytest.raises(BuildError) as caught:
        begin(fake, made.lowered)
    complaints.clear()
    assert str(caught.value) == said


class Cached:
    """A builder's config with timing caches, as TensorRT has them: a cache is of one GPU."""

    def __init__(self, diagnostics: Diagnostics, gpu: bytes = b"H100") -> None:
        self.diagnostics, self.gpu, self.cache = diagnostics, gpu, b""

    def create_timing_cache(self, data: bytes) -> Any:
        if data and not data.startswith(b"TC:"):
            self.diagnostics.lines.append("x: Error Code 4: Internal Error (Deserialization of the cache failed)")
            return None
        return data or b"TC:" + self.gpu

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.cache = cache
        return self.gpu in cache

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: self.cache + b"+measured")


@pytest.fixture
def config() -> Cached:
    return Cached(Diagnostics(module("tensorrt-rtx")))


def test_a_timing_cache_goes_in_and_out(config: Cached, tmp_path: Path) -> None:
    load_timing_cache(config, config.diagnostics, None)
    save_timing_cache(config, tmp_path / "model.cache")
    load_timing_cache(config, config.diagnostics, tmp_path / "model.cache")
    assert config.cache == b"TC:H100+measured" and [f.name for f in tmp_path.iterdir()] == ["model.cache"]


@pytest.mark.parametrize(("data", "why"), [(b"TC:A100", ""), (b"junk", "Deserialization of the cache failed")])
def test_a_timing_cache_of_another_gpu_or_none_at_all(data: bytes, why: str, config: Cached, tmp_path: Path) -> None:
    (tmp_path / "old.cache").write_bytes(data)
    with pytest.raises(TrtcError) as caught:
        load_timing_cache(config, config.diagnostics, tmp_path / "old.cache")
    first, *rest = str(caught.value).splitlines()
    assert first == (
        f"error: timing cache {tmp_path}/old.cache is not used: it is damaged, or was measured on another GPU or by "
        "another version"
    )
    assert why in rest[0] and rest[-1] == "  = help: remove it, or leave --input-timing-cache out"


def test_places_of_timing_caches(config: Cached, tmp_path: Path) -> None:
    with pytest.raises(TrtcError, match="none cannot be read: no such file or directory"):
        load_timing_cache(config, config.diagnostics, tmp_path / "none")
    file, said = tmp_path / "nowhere" / "model.cache", r"model\.cache cannot be written: "
    with pytest.raises(TrtcError, match=said):
        check_place(file)
    with pytest.raises(TrtcError, match=said):
        save_timing_cache(config, file)


def test_where_the_cache_goes_is_looked_at_before_the_build(
    made: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "check", nothing)
    monkeypatch.setattr(serialize, "_built", None)
    said = failing(made, tmp_path, options=Options(output_timing_cache="/no/where/model.cache"))
    assert said == "error: timing cache /no/where/model.cache cannot be written: /no/where is not a folder"
