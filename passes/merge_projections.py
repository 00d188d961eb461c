"""Linear layers that read one activation, as one wider matrix product."""

from __future__ import annotations

from trtc.ir.graph import Graph
from trtc.ir.op import Value
from trtc.ir.ops import Concat, Linear, Slice
from trtc.passes.base import Pass


class MergeProjections(Pass, name="merge-projections"):
    """x @ Wq.T, x @ Wk.T, x @ Wv.T  ->  slices of x @ concat(Wq, Wk, Wv).T

    Layers with a bias and layers without one stay apart; so do layers whose weight is no constant.

    Options:
        max_width: leave layers apart whose joint width exceeds this many columns.
    """

    max_width: int = 65536

    def run(self, graph: Graph) -> Graph:
        new: dict[Value, Value] = {}
        for x, users in graph.users.items():
            linears = [op for op in dict.fromkeys(users) if isinstance(op, Linear) and op.x is x]
            for biased in (False, True):
                new.update(self._merged([op for op in linears if (op.bias is not None) is biased], graph))
        return graph.replace(new)

    def _merged(self, linears: list[Linear], graph: Graph) -> dict[Value, Value]:
        group = [op for op in linears if all(graph.is_constant(v) for v in (op.weight, op.bias) if v)]
        widths = [w for op in group if isinstance(w := op.shape[-1], int)]
        if len(group) < 2 or sum(widths) > self.max_width:
            return {}
        biases = tuple(op.bias for op in group if op.bias)
        weight = Concat(tuple(op.weight for op in group), 0, loc=group[0].loc)
        bias = Concat(biases, 0, loc=group[0].loc) if biases else None
        joint = Linear(group[0].x, weight, bias, loc=_joint_loc(group))
        starts = [sum(widths[:i]) for i in range(len(group))]
        last = joint.type.rank - 1
        return {op: Slice(joint, last, s, w, loc=op.loc) for op, s, w in zip(group, starts, widths, strict=True)}


def _joint_loc(group: list[Linear]) -> str:
    """``layers.0.attention.q`` and ``.k`` and ``.v`` -> ``layers.0.attention.q+k+v``."""
    stems = {op.loc.rpartition(".")[0] for op in group}
    parts = "+".join(op.loc.rpartition(".")[2] for op in group)
    return f"{stems.pop()}.{parts}" if len(stems) == 1 else group[0].loc
