"""What the layers of a plan say of where they come from: the place and the kind of an op, as their metadata."""

from __future__ import annotations

from collections import Counter

from trtc.ir.graph import Graph
from trtc.ir.op import Op
from trtc.ir.ops import Input


def origins(graph: Graph) -> dict[Op, str]:
    """By op, its ``loc`` and its kind, with a number where there are more of them: ``layers.0.mlp/add#2``."""
    found: dict[Op, str] = {}
    taken: Counter[str] = Counter()
    for op in graph.ops:
        if isinstance(op, Input) or graph.is_constant(op):
            continue
        place = f"{op.loc}/{op.name}" if op.loc else op.name
        taken[place] += 1
        found[op] = place if taken[place] == 1 else f"{place}#{taken[place]}"
    return found
