"""How much memory an engine will take to build and to run, before it is built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from trtc.backend.cuda.plan import plans_of
from trtc.backend.cuda.target import architectures
from trtc.backend.tensorrt.api import PRODUCTS, api_of
from trtc.backend.tensorrt.options import Options
from trtc.backend.tensorrt.profiles import plan_profiles
from trtc.ir.graph import Graph
from trtc.ir.liveness import peak_bytes
from trtc.ir.materialize import frontier
from trtc.ir.target import Target

SCRATCH = 8 << 20         # bytes that TensorRT plans set aside besides, whatever the shapes
PROCESS = 250 << 20       # of a process that builds with TensorRT: the library, its compiler
SMALL_PROCESS = 40 << 20  # of one that writes ONNX
STREAMS = (10, 13)        # the first version whose plans leave by a stream, without a copy in memory


@dataclass(frozen=True)
class Estimate:
    """Bytes.

    Args:
        weights: that the engine reads.
        cache: of all sequences at their longest.
        activations: intermediate values at the greatest shapes, where no op is fused.
        build: of the host's memory while it is built, besides the checkpoint's mapped files.
    """

    weights: int
    cache: int
    activations: int
    build: int

    @property
    def run(self) -> int:
        """Of the device's memory while it runs."""
        return self.weights + self.cache + self.activations


def estimate(
    graph: Graph, target: Target, options: Options | None, *, weights: int, cache: int, threads: int
) -> Estimate:   # fmt: skip
    """What an engine of a legal graph will take.

    Args:
        options: of TensorRT's builder; None for other targets.
        weights: bytes that the engine stores.
        cache: bytes of the whole KV cache.
        threads: constants that are materialised at a time.
    """
    if options is None:
        largest = sorted((item.value.type.nbytes() for item in frontier(graph)), reverse=True)[:threads]
        return Estimate(weights, cache, _computed(graph, target), SMALL_PROCESS + sum(largest))
    assert target.name in PRODUCTS
    points = ({name: most for name, (_, _, most) in ranges.items()} for ranges in plan_profiles(graph, options))
    copies = 0 if options.weightless else 1 if api_of(target.name, target.version).level >= STREAMS else 2
    return Estimate(weights, cache, _activations(graph, points) + SCRATCH, PROCESS + copies * weights)


def _computed(graph: Graph, target: Target) -> int:
    """The bytes of intermediate values: as they are laid out where that is our work, else as if no op were fused."""
    if target.name == "cuda":
        return max(phase.layout.bytes for plan in plans_of(graph, architectures(target)) for phase in plan.phases)
    return peak_bytes(graph, {name: most for name, (_, most) in graph.bounds.items()})


def _activations(graph: Graph, points: Iterable[Mapping[str, int]]) -> int:
    """The most that any of these shapes needs: profiles share their memory."""
    fixed = {name: most for name, (_, most) in graph.bounds.items()}
    return max((peak_bytes(graph, {**fixed, **point}) for point in points), default=peak_bytes(graph, fixed))
