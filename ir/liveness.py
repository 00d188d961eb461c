"""How much memory the intermediate values of a graph take at most, as it runs op by op."""

from __future__ import annotations

from trtc.ir.cost import VIEWS, Sizes, nbytes
from trtc.ir.graph import Graph
from trtc.ir.op import Op, Result, Value
from trtc.ir.ops import Input


def peak_bytes(graph: Graph, sizes: Sizes) -> int:
    """The most bytes that values are alive in at once, inputs, outputs and constants not counted.

    A value lives from the op that makes it to the last that reads it; what only looks at it otherwise (a reshape) is
    the same memory. Ops run in the order of the graph, and none is fused with another: an engine that fuses needs less.

    Args:
        sizes: the value of each symbolic size.
    """
    owner = _owners(graph)
    outside = {owner[v] for v in graph.outputs.values() if v in owner}
    last: dict[Value, int] = {}
    for number, op in enumerate(graph.ops):
        for value in (op, *op.operands.values()):
            if value in owner:
                last[owner[value]] = number
    ends: dict[int, list[Value]] = {}
    for value, number in last.items():
        ends.setdefault(number, []).append(value)
    alive = most = 0
    for number, op in enumerate(graph.ops):
        if owner.get(op) is op and op not in outside:
            alive += nbytes(op.type, sizes)
        most = max(most, alive)
        alive -= sum(nbytes(value.type, sizes) for value in ends.get(number, ()) if value not in outside)
    return most


def _owners(graph: Graph) -> dict[Value, Value]:
    """For each value that is computed, the one whose memory it lies in: itself, or what it is a view of."""
    owner: dict[Value, Value] = {}
    for op in graph.ops:
        if isinstance(op, Input) or graph.is_constant(op):
            continue
        viewed = _viewed(op)
        if viewed is None:
            owner[op] = op
        elif viewed in owner:   # otherwise of an input or a constant, which have their own
            owner[op] = owner[viewed]
    return owner


def _viewed(op: Op) -> Value | None:
    if isinstance(op, VIEWS) and not isinstance(op, Result):
        return op.x
    return None
