"""Weights of a plan that has none of its own: uploaded to the GPU, and bound as inputs."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from trtc.errors import TrtcError
from trtc.runtime.bundle import EngineBundle, Weights
from trtc.runtime.gpu.device import Device
from trtc.runtime.gpu.memory import Arena, HostArray, MemoryPlan
from trtc.runtime.gpu.stream import Event, Stream

PIECE = 32 << 20   # bytes that are copied at a time: two such pieces of the host's memory take turns


@dataclass(frozen=True)
class Place:
    """Where a tensor of a file lies, in bytes from its begin; its numbers, and safetensors' name of their type."""

    start: int
    end: int
    count: int
    dtype: str


class Uploaded:
    """The weights of a bundle's rank, in the memory of a GPU.

    Args:
        said: what the bundle says of them; None where the plan has its own.
    Errors:
        TrtcError: they are damaged, or the GPU has not as much free.
    """

    def __init__(self, bundle: EngineBundle, said: Weights | None, device: Device, stream: Stream) -> None:
        self.addresses: dict[str, int] = {}
        if said is None:
            return
        file = bundle.path / said.file
        places = read_places(file, said.tensors.values())
        sizes = {key: place.end - place.start for key, place in places.items()}
        self._arena = Arena(device, MemoryPlan(sizes, dict.fromkeys(sizes, "weights")))
        _upload(file, places, self._arena, stream)
        self.addresses = {name: self._arena[key] for name, key in said.tensors.items()}


def read_places(file: Path, keys: Iterable[str]) -> dict[str, Place]:
    """Where these tensors of a safetensors file lie.

    Errors:
        TrtcError: it has no such tensor.
    """
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
    found: dict[str, Place] = {}
    for key in keys:
        if key not in header:
            raise TrtcError(f"{file} has no tensor {key}, but engine.json lists it")
        start, end = (8 + size + offset for offset in header[key]["data_offsets"])
        found[key] = Place(start, end, prod(header[key]["shape"]), header[key]["dtype"])
    return found


def _upload(file: Path, places: Mapping[str, Place], arena: Arena, stream: Stream) -> None:
    """Copy tensors to the GPU: the host reads the next piece while the last one travels."""
    stages = [(HostArray(stream.device, (PIECE,), np.uint8), Event(stream.device)) for _ in range(2)]
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        for number, (target, first, size) in enumerate(_pieces(places, arena)):
            stage, free = stages[number % 2]
            free.synchronize()
            stage.array[:size] = np.frombuffer(mapped[first : first + size], np.uint8)
            stream.copy(target, stage.address, size)
            free.record(stream)
    stream.synchronize()


def _pieces(places: Mapping[str, Place], arena: Arena) -> Iterator[tuple[int, int, int]]:
    """Where each piece goes, where it begins in the file, and its bytes."""
    for key, place in places.items():
        for first in range(place.start, place.end, PIECE):
            yield arena[key] + first - place.start, first, min(PIECE, place.end - first)
