"""Weights of a plan that has none of its own: uploaded to the GPU, and bound as inputs."""

from __future__ import annotations

from trtc.runtime.bundle import EngineBundle, Weights
from trtc.runtime.gpu.device import Device
from trtc.runtime.gpu.memory import Arena, MemoryPlan
from trtc.runtime.gpu.stream import Stream
from trtc.runtime.gpu.upload import Part, upload
from trtc.runtime.safetensors import read_places


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
        upload(file, (Part(place.start, sizes[key], self._arena[key]) for key, place in places.items()), stream)
        self.addresses = {name: self._arena[key] for name, key in said.tensors.items()}
