"""Computing in a wider element type than weights are stored in."""

from __future__ import annotations

from dataclasses import replace

from trtc.ir.errors import PassError
from trtc.ir.graph import Graph
from trtc.ir.op import Op, Value, at
from trtc.ir.ops import Cast, Constant, Input
from trtc.ir.types import DTYPES, DType, TensorType
from trtc.passes.base import Pass


class Widen(Pass, name="widen"):
    """Compute in a wider type: weights stay narrow and are cast where they are read, inputs and outputs widen.

    Options:
        narrow: the element type to leave, such as bf16.
        wide: the one to compute in.
    """

    narrow: str
    wide: str = "f32"

    def run(self, graph: Graph) -> Graph:
        return widen(graph, _dtype(self.narrow), _dtype(self.wide))


def _dtype(name: str) -> DType:
    if name not in DTYPES:
        raise PassError(f"widen: unknown element type `{name}`", f"help: one of {', '.join(DTYPES)}")
    return DTYPES[name]


def widen(graph: Graph, narrow: DType, wide: DType) -> Graph:
    """The graph computed in ``wide`` wherever it was in ``narrow``."""
    new: dict[Value, Value] = {}
    for op in graph.ops:
        if op in new:   # a further result of an op that is widened already
            continue
        made = new[op] = _widened(op, new, graph, narrow, wide)
        if len(op.types) > 1 and isinstance(made, Op) and not graph.is_constant(op):
            new.update(zip(op.results, made.results, strict=True))
    inputs = tuple(i for key in graph.inputs if isinstance(i := new[key], Input))
    return replace(graph, inputs=inputs, outputs={k: new[v] for k, v in graph.outputs.items()})


def _widened(op: Op, new: dict[Value, Value], graph: Graph, narrow: DType, wide: DType) -> Value:
    of = TensorType(wide, op.shape)
    with at(op.loc, absolute=True):
        if isinstance(op, Input | Constant):
            return op.with_attributes(of=of) if op.dtype == narrow else op
        if graph.is_constant(op):
            return Cast(op, wide) if op.dtype == narrow else op
        if isinstance(op, Cast) and op.to in (narrow, wide):
            x = new[op.x]
            return x if x.dtype == wide else Cast(x, wide)
        return op.with_operands(new)
