"""The constants of a plan: materialised, and handed to TensorRT by pointer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from trtc.backend.tensorrt.emit import Emitter
from trtc.ir.graph import Graph
from trtc.ir.materialize import Stored, frontier, stream
from trtc.ir.op import Array
from trtc.ir.ops import Constant, Weight

Progress = Callable[[str, int, int], None]   # phase, done, total


def constants(graph: Graph) -> list[Stored]:
    """What the plan stores: the constants that ops read, and those that are outputs."""
    found = frontier(graph)
    inner = {s.value for s in found}
    outer = [Stored(f"{key}.constant", v) for key, v in graph.outputs.items() if graph.is_constant(v) and v not in inner]
    return found + [s for s in outer if not (isinstance(s.value, Constant) and s.value.type.numel() == 1)]


def store(
    emit: Emitter, tensors: Mapping[str, Array], *, threads: int, progress: Progress, release: Callable[[str], None]
) -> None:
    """Declare every constant; a weight that is stored as it is in the checkpoint stays where it is mapped."""
    stored = constants(emit.graph)
    done, total = 0, sum(s.value.type.nbytes() for s in stored)
    for item, array in stream(stored, tensors, threads=threads, release=release):
        emit.stored(item, array)
        done += item.value.type.nbytes()
        progress("materialize", done, total)


def let_go(graph: Graph, release: Callable[[str], None]) -> None:
    """Release, once the plan is built, the weights that TensorRT read in place."""
    for item in constants(graph):
        if isinstance(item.value, Weight):
            release(item.value.key)
