"""Where the time of an engine goes: layers' times, beside the bytes and operations of the ops they were made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from trtc.backend.tensorrt.engine_layers import EngineLayer
from trtc.ir.cost import Cost, Sizes, fused_cost
from trtc.ir.graph import Graph
from trtc.ir.op import Op


@dataclass(frozen=True)
class Timed:
    """Engine layers that share ops, so that only together they do some ops whole.

    Args:
        seconds: of one run, of all of them.
        cost: of the ops, where nothing that stays among them goes through memory.
    """

    layers: tuple[EngineLayer, ...]
    ops: tuple[Op, ...]
    seconds: float
    cost: Cost

    def efficiency(self, flops: float, bandwidth: float) -> float:
        """The least time that the hardware would need, as a part of the time that it took."""
        return self.cost.seconds(flops, bandwidth) / self.seconds if self.seconds else 0.0


def timed(
    layers: Sequence[EngineLayer], seconds: Mapping[str, Sequence[float]], graph: Graph, sizes: Sizes,
    context: int | None = None,
) -> list[Timed]:   # fmt: skip
    """Groups of layers with their times and costs, the dearest first.

    Args:
        seconds: by the name of a layer, of one run, the times of each that has it, in order.
        sizes: the value of each symbolic size in that run.
        context: keys that attention saw of each sequence.
    """
    left = {name: list(times) for name, times in seconds.items()}
    times = {id(layer): left[layer.name].pop(0) if left.get(layer.name) else 0.0 for layer in layers}
    order = {op: number for number, op in enumerate(graph.ops)}
    found: list[Timed] = []
    for group in grouped(layers):
        ops = tuple(sorted({op for layer in group for op in layer.ops}, key=order.__getitem__))
        spent = sum(times[id(layer)] for layer in group)
        found.append(Timed(tuple(group), ops, spent, fused_cost(ops, graph, sizes, context)))
    return sorted(found, key=lambda group: -group.seconds)


def grouped(layers: Iterable[EngineLayer]) -> list[list[EngineLayer]]:
    """Layers that share an op, or share one with others that do, together; those without ops each by itself."""
    groups: list[tuple[set[Op], list[EngineLayer]]] = []
    for layer in layers:
        ops, members, apart = set(layer.ops), [layer], list[tuple[set[Op], list[EngineLayer]]]()
        for group in groups:
            if group[0] & ops:
                ops, members = ops | group[0], [*group[1], *members]
            else:
                apart.append(group)
        groups = [*apart, (ops, members)]
    return [members for _, members in groups]
