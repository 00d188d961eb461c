"""Phases: the graph of an engine for one range of sizes each, by the rules that fit it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from trtc.backend.cuda.phase_rules import STAGES
from trtc.ir.graph import Graph
from trtc.ir.types import Bounds
from trtc.passes.canonicalize import Canonicalize
from trtc.passes.cse import CommonSubexpressions
from trtc.passes.rewrite import apply
from trtc.passes.specialize import Specialize

BUCKETS = (1, 2, 4, 8, 16)   # batch sizes that have a decode phase of their own
TOKENS = 8192                # new tokens of a batch in one call at most: what prefill's scratch memory is made for


@dataclass(frozen=True)
class Phase:
    """One range of sizes.

    Args:
        bounds: for each size of the whole graph, the (least, greatest) value.
        tokens: the greatest B * S.
        graph: equal to the whole graph within the bounds; sizes of one value are numbers in it.
    """

    name: str
    bounds: Bounds
    tokens: int
    graph: Graph

    def extremes(self) -> list[Mapping[str, int]]:
        """Sizes within the bounds, of which one is the greatest for whatever grows with them."""
        (least, batch), (_, tokens) = (self.bounds.get(name, (1, 1)) for name in ("B", "S"))
        rest = {name: most for name, (_, most) in self.bounds.items() if name not in ("B", "S")}
        fitting = [(b, min(tokens, self.tokens // b)) for b in range(least, batch + 1) if b <= self.tokens]
        return [{**rest, "B": b, "S": s} for n, (b, s) in enumerate(fitting) if not _smaller(fitting, n)]


def _smaller(pairs: list[tuple[int, int]], number: int) -> bool:
    """Whether the next pair is as great in both."""
    return number + 1 < len(pairs) and pairs[number + 1][1] >= pairs[number][1]


def phases(graph: Graph, tokens: int = TOKENS) -> Iterator[Phase]:
    """The phases of a legal graph: decode for each batch size that the runtime rounds up to, for greater ones; prefill.

    Args:
        tokens: new tokens of a batch in one call at most; no fewer than sequences.
    """
    (_, batch), (_, new) = (graph.bounds.get(name, (1, 1)) for name in ("B", "S"))
    usual = [size for size in (*BUCKETS, batch) if size <= min(batch, BUCKETS[-1])]
    for size in sorted(set(usual)):
        yield _phase(f"decode-{size}", graph, {"B": (size, size), "S": (1, 1)}, size)
    if batch > BUCKETS[-1]:
        yield _phase("decode", graph, {"B": (BUCKETS[-1] + 1, batch), "S": (1, 1)}, batch)
    yield _phase("prefill", graph, {}, min(batch * new, max(tokens, batch)))


def _phase(name: str, graph: Graph, narrowed: Bounds, tokens: int) -> Phase:
    bounds = {**graph.bounds, **{k: pair for k, pair in narrowed.items() if k in graph.bounds}}
    special = graph
    for size, (least, most) in bounds.items():
        if least == most:
            special = Specialize(size, least).run(special)
    for stage in STAGES:
        special = apply(Canonicalize().run(special), stage, name)
    special = CommonSubexpressions().run(Canonicalize().run(special))
    return Phase(name, bounds, tokens, special)
