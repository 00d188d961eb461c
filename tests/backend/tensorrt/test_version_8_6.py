"""What is done for TensorRT 8.6 alone, with a stand-in of its names; docs/benchmarks.md has what it did on a GPU."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tensorrt_standin import standin

from trtc.backend.bundle import bundle
from trtc.backend.tensorrt import build as building
from trtc.backend.tensorrt.bindings import complaints
from trtc.backend.tensorrt.configure import load_timing_cache
from trtc.backend.tensorrt.diagnose import Diagnostics
from trtc.errors import TrtcError
from trtc.ir import Graph, f16
from trtc.ir.ops import Input, Neg
from trtc.ir.target import target


def graph() -> Graph:
    x = Input("x", f16["B", 4])
    return Graph("g", (x,), {"y": Neg(x)}, {"B": (1, 4)})


class Cached:
    """A builder's config whose timing caches cannot be read, as 8.6 says it."""

    LINES = ("[myelinCache.h::deserializeFromBuffer::52] Error Code 1: Myelin (Myelin error from unknown graph)",
             "The timing cache will not be used!")   # fmt: skip

    def __init__(self) -> None:
        self.set = list[bytes]()

    def create_timing_cache(self, data: bytes) -> bytes:
        if data:
            complaints.extend(self.LINES)
        return data

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        self.set.append(cache)
        return True


def test_a_timing_cache_that_it_cannot_read_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "old").write_bytes(b"ptrt")
    config: Any = Cached()
    diagnostics = Diagnostics(standin("8.6"))
    load_timing_cache(config, diagnostics, tmp_path / "old")
    diagnostics.check()
    assert config.set == [b""] and f"timing cache {tmp_path}/old is not used" in caplog.text


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def swallowed() -> None:
    """Ctrl-C as TensorRT tells its logger something: what it raises there is printed and forgotten."""
    with suppress(KeyboardInterrupt):
        interrupt()


def build(folder: Path, monkeypatch: pytest.MonkeyPatch, built: Callable[..., Any]) -> list[str]:
    """The files of an engine that `built` builds the plan of."""
    trt = standin("8.6")
    monkeypatch.setattr(trt.Builder, "build_serialized_network", lambda *_: built())   # pyright: ignore

    def module(_: str) -> Any:
        return trt

    monkeypatch.setattr(building, "module", module)
    with bundle(folder / "engine", 0) as writer:
        building.build(graph(), {}, writer, "rank0", target=target("tensorrt:8.6"))
        return list(writer.files)


def test_ctrl_c_leaves_a_build_that_nothing_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()

    def built() -> bytes:
        interrupt()
        assert goes_on.wait(60)
        return b"a plan"

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, monkeypatch, built)
    assert list(tmp_path.iterdir()) == [] and not goes_on.is_set()
    goes_on.set()


def test_ctrl_c_in_a_callback_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = building.begin

    def begun(*arguments: Any) -> Any:
        swallowed()
        return begin(*arguments)

    monkeypatch.setattr(building, "begin", begun)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, monkeypatch, lambda: b"a plan")
    assert list(tmp_path.iterdir()) == []


def test_what_the_build_raises_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> bytes:
        raise MemoryError

    assert build(tmp_path, monkeypatch, lambda: b"a plan") == ["rank0/model.plan"]
    (tmp_path / "again").mkdir()
    with pytest.raises(TrtcError, match="TensorRT has not the memory to build the network"):
        build(tmp_path / "again", monkeypatch, fails)
