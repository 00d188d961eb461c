"""Weights of a plan that has none of its own: uploaded to the GPU, and bound as inputs."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from trtc.errors import TrtcError
from trtc.runtime.bundle import EngineBundle
from trtc.runtime.gpu.device import Device
from trtc.runtime.gpu.memory import Arena, HostArray, MemoryPlan
from trtc.runtime.gpu.stream import Event, Stream

PIECE = 32 << 20   # bytes that are copied at a time: two such pieces of the host's memory take turns


class Weights:
    """The weights of a bundle's rank, in the memory of a GPU.

    Errors:
        TrtcError: they are damaged, or the GPU has not as much free.
    """

    def __init__(self, bundle: EngineBundle, device: Device, stream: Stream) -> None:
        self.addresses: dict[str, int] = {}
        said = bundle.ranks[0].weights
        if said is None or said.use != "inputs":   # which is the plan's own matter
            return
        file = bundle.path / said.file
        places = read_places(file)
        if missing := [key for key in said.tensors.values() if key not in places]:
            raise TrtcError(f"{file} has no tensor {missing[0]}, but engine.json lists it")
        used = {key: places[key] for key in said.tensors.values()}
        self._arena = Arena(device, MemoryPlan({k: end - start for k, (start, end) in used.items()},
                                               dict.fromkeys(used, "weights")))   # fmt: skip
        _upload(file, used, self._arena, device, stream)
        self.addresses = {name: self._arena[key] for name, key in said.tensors.items()}


def read_places(file: Path) -> dict[str, tuple[int, int]]:
    """Where each tensor of a safetensors file begins and ends, in bytes from the file's begin."""
    start, header = read_header(file)
    return {
        key: (start + entry["data_offsets"][0], start + entry["data_offsets"][1])
        for key, entry in header.items()
        if key != "__metadata__"
    }


def read_header(file: Path) -> tuple[int, dict[str, Any]]:
    """Where the tensors of a safetensors file begin, and what it says of each."""
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        return 8 + size, json.loads(opened.read(size))


def _upload(
    file: Path, places: dict[str, tuple[int, int]], arena: Arena, device: Device, stream: Stream
) -> None:
    """Copy tensors to the GPU: the host reads the next piece while the last one travels."""
    stages = [(HostArray(device, (PIECE,), np.uint8), Event(device)) for _ in range(2)]
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        for number, (target, first, size) in enumerate(_pieces(places, arena)):
            stage, free = stages[number % 2]
            free.synchronize()
            stage.array[:size] = np.frombuffer(mapped[first : first + size], np.uint8)
            stream.copy(target, stage.address, size)
            free.record(stream)
    stream.synchronize()


def _pieces(places: dict[str, tuple[int, int]], arena: Arena) -> Iterator[tuple[int, int, int]]:
    """Where each piece goes, where it begins in the file, and its bytes."""
    for key, (start, end) in places.items():
        for first in range(start, end, PIECE):
            yield arena[key] + first - start, first, min(PIECE, end - first)
