"""Common subexpressions, once."""

from __future__ import annotations

from trtc.ir.graph import Graph
from trtc.ir.op import Op, Result, Value
from trtc.ir.ops import Input
from trtc.ir.printer import literal
from trtc.passes.base import Pass


class CommonSubexpressions(Pass, name="cse"):
    """Equal ops on equal operands become one op."""

    def run(self, graph: Graph) -> Graph:
        first: dict[object, Op] = {}
        new: dict[Value, Value] = {}
        for op in graph.ops:
            if isinstance(op, Input | Result):
                continue
            operands = tuple((k, new.get(v, v)) for k, v in op.operands.items())
            key = (type(op), op.types, operands, tuple((k, literal(v)) for k, v in op.attributes.items()))
            if (earlier := first.setdefault(key, op)) is not op:
                new.update(zip(op.results, earlier.results, strict=True))
        return graph.replace(new)
