"""The constants of a plan: materialised, and handed to TensorRT by pointer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from trtc.backend.bundle import Progress
from trtc.backend.tensorrt.emit import Emitter
from trtc.ir.graph import Graph
from trtc.ir.materialize import Stored, frontier, stream, weights_of
from trtc.ir.op import Array
from trtc.ir.ops import Constant


def constants(graph: Graph) -> list[Stored]:
    """What the plan stores: the constants that ops read, and those that are outputs."""
    found = frontier(graph)
    inner = {s.value for s in found}
    left = {k: v for k, v in graph.outputs.items() if graph.is_constant(v) and v not in inner}
    return found + [Stored(f"{k}.constant", v) for k, v in left.items() if not isinstance(v, Constant)]


def weights(graph: Graph) -> list[Stored]:
    """Of these, the ones that a checkpoint says; the others are the same for every checkpoint of a shape."""
    return [item for item in constants(graph) if weights_of(item.value)]


def stored_bytes(graph: Graph) -> int:
    """The bytes of weights that the engine of a graph stores."""
    return sum(s.value.type.nbytes() for s in constants(graph))


def store(
    emit: Emitter, tensors: Mapping[str, Array], *, threads: int, progress: Progress, release: Callable[[str], None]
) -> None:
    """Declare every constant; a weight that is stored as it is in the checkpoint stays where it is mapped."""
    done, total = 0, stored_bytes(emit.graph)
    for item, array in stream(constants(emit.graph), tensors, threads=threads, release=release):
        emit.stored(item, array)
        done += item.value.type.nbytes()
        progress("weights", done, total)


def let_go(graph: Graph, release: Callable[[str], None]) -> None:
    """Release, once the plan is built, the weights that TensorRT may have read in place."""
    for item in constants(graph):
        for key in weights_of(item.value):
            release(key)
