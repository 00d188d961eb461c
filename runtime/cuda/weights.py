"""The weights of a launch plan: one piece of the GPU's memory, with the counters of its kernels behind them."""

from __future__ import annotations

from trtc.errors import TrtcError
from trtc.runtime.cuda.plan import Plan
from trtc.runtime.gpu.device import Device
from trtc.runtime.gpu.memory import Arena, MemoryPlan
from trtc.runtime.gpu.stream import Stream
from trtc.runtime.gpu.upload import Part, upload
from trtc.runtime.integrity import AGAIN
from trtc.runtime.safetensors import read_places


class PlanWeights:
    """Weights and counters on a GPU.

    Args:
        counter_bytes: of memory that is zero between launches.
    Errors:
        TrtcError: the file is damaged, or the GPU has not as much free.
    """

    def __init__(self, plan: Plan, counter_bytes: int, device: Device, stream: Stream) -> None:
        file = plan.folder / plan.weights_file
        places = read_places(file, plan.weights)
        for name, tensor in plan.weights.items():
            size = places[name].end - places[name].start
            if size != tensor.bytes:
                raise TrtcError(f"{file} has {size} bytes of {name}, but plan.json says {tensor.bytes}", AGAIN)
        self._arena = Arena(device, MemoryPlan({"weights": plan.weight_bytes, "counters": counter_bytes}))
        self.addresses = {name: self._arena["weights"] + tensor.offset for name, tensor in plan.weights.items()}
        self.counters = self._arena["counters"]
        stream.fill(self.counters, 0, counter_bytes)
        parts = sorted((places[n].start, tensor.bytes, self.addresses[n]) for n, tensor in plan.weights.items())
        upload(file, (Part(*part) for part in parts), stream)
