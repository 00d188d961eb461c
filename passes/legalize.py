"""What a target does not take, in ops that it does."""

from __future__ import annotations

from trtc.ir.errors import IRError, PassError
from trtc.ir.graph import Graph
from trtc.ir.op import Op, Result, Value, at
from trtc.ir.ops import Constant, Input, Weight
from trtc.ir.target import Target, target
from trtc.passes.base import Pass
from trtc.passes.widen import widen

ROUNDS = 20   # no op is that many levels above the primitives


class Legalize(Pass, name="legalize"):
    """Decompose every op that the target does not take, and refuse what cannot be decomposed.

    Constant expressions are left alone: they are evaluated before the engine is built. An input of an element type
    that the target does not compute in is refused at once.

    Options:
        target: ``name`` or ``name:version``.
    """

    target: str

    def run(self, graph: Graph) -> Graph:
        to = target(self.target)
        for tensor in graph.inputs:
            if to.floats and tensor.dtype.is_float and tensor.dtype not in to.floats:
                floats = ", ".join(map(str, to.floats))
                raise IRError(f"{to} computes in {floats}, but {tensor.key} is {tensor.dtype}", "help: --dtype float16")
        for narrow, wide in to.widened.items():
            graph = widen(graph, narrow, wide)
        for _ in range(ROUNDS):
            if not (new := self._decomposed(graph, to)):
                return graph
            graph = graph.replace(new)
        left = ", ".join(sorted({op.name for op in self._decomposed(graph, to) if isinstance(op, Op)}))
        raise PassError(f"legalize: {left} decomposes into what {to} refuses again and again, but must come to an end")

    def _decomposed(self, graph: Graph, to: Target) -> dict[Value, Value]:
        new: dict[Value, Value] = {}
        for op in graph.ops:
            if isinstance(op, Input | Weight | Constant | Result) or graph.is_constant(op):
                continue
            if reason := to.refuses(op):
                new.update(zip(op.results, _simpler(op, to, reason), strict=True))
        return new


def _simpler(op: Op, to: Target, reason: str) -> tuple[Value, ...]:
    with at(op.loc, absolute=True):
        parts = op.decompose()
    if parts is None:
        operands = [f"{k} : {v.type}" for k, v in op.operands.items()]
        raise IRError(f"{to} cannot express {op.name} at {op.loc or '?'}: {reason}", *operands, source=op.source)
    return parts if isinstance(parts, tuple) else (parts,)
