"""Parts of a file get to the GPU whole, in whatever pieces they are read and sent."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from fake_cuda import FakeDriver

from trtc.errors import TrtcError
from trtc.runtime.gpu import upload as module
from trtc.runtime.gpu.device import open_device
from trtc.runtime.gpu.driver import open_driver
from trtc.runtime.gpu.memory import Arena, MemoryPlan
from trtc.runtime.gpu.stream import Stream
from trtc.runtime.gpu.upload import Part, upload


@pytest.mark.parametrize(("piece", "read"), [(64, 10), (64, 64), (1 << 20, 7), (256, 1 << 20)])
def test_parts_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int, read: int) -> None:
    monkeypatch.setattr(module, "PIECE", piece)
    monkeypatch.setattr(module, "READ", read)
    driver = FakeDriver()
    device = open_device(on=open_driver(driver))
    data = np.random.default_rng(0).integers(0, 256, 3000, np.uint8).tobytes()
    (tmp_path / "file").write_bytes(data)
    places = {"a": (7, 1000), "b": (1007, 0), "c": (1007, 3), "d": (1010, 1990)}
    arena = Arena(device, MemoryPlan({name: size for name, (_, size) in places.items()}))
    parts = [Part(start, size, arena[name]) for name, (start, size) in places.items()]
    upload(tmp_path / "file", parts, Stream(device))
    for name, (start, size) in places.items():
        assert ctypes.string_at(arena[name], size) == data[start : start + size]
    assert not driver.pinned


def test_a_file_that_ends_too_early(tmp_path: Path) -> None:
    device = open_device(on=open_driver(FakeDriver()))
    (tmp_path / "file").write_bytes(b"abc")
    arena = Arena(device, MemoryPlan({"a": 8}))
    with pytest.raises(TrtcError, match="file ends at byte 3, but must have 9\n"):
        upload(tmp_path / "file", [Part(1, 8, arena["a"])], Stream(device))
