"""Caches in pages: sequences take turns in one pool for each cache, instead of having a buffer of some length each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from trtc.backend.cuda.phase_rules import prefill_attention, unfit
from trtc.backend.kernels.ops import PrefillAttention, RopeAndAppend
from trtc.backend.kernels.ops.attention import PAGE
from trtc.ir.errors import IRError
from trtc.ir.graph import Graph
from trtc.ir.op import Op, Value
from trtc.ir.ops import Attention, Input
from trtc.ir.target import target
from trtc.ir.types import Dim, evaluate, i32, names
from trtc.passes.base import Pass
from trtc.passes.canonicalize import Canonicalize
from trtc.passes.rewrite import apply
from trtc.passes.specialize import rebuilt

P = Dim.named("P")   # pages of a pool; the first is nobody's


class PageCaches(Pass, name="page-caches"):
    """Keep keys and values in pools of pages, each of 64 tokens of one sequence.

    Caches [B, Hkv, M, D] become pools [P, Hkv, 64, D], and there is an input more: ``pages`` i32[B, N], the pages of
    each sequence in order, N being those that the greatest M takes. All layers share the table.

    Options:
        target: ``name`` or ``name:version``.
    Errors:
        IRError: no kernel of the target does with pages what is done with a cache.
    """

    target: str

    def run(self, graph: Graph) -> Graph:
        graph = apply(graph, [prefill_attention], self.name)
        caches = [i for i in graph.inputs if i in graph.aliases.values()]
        if not caches or any(i.key == "pages" for i in graph.inputs):
            return graph
        for op in _readers(graph, caches):
            if not isinstance(op, RopeAndAppend | PrefillAttention):
                raise self._refusal(op, _why(op))
        batch, _, capacity, _ = caches[0].shape
        greatest = {name: most for name, (_, most) in graph.bounds.items()}
        each, gone = -(-evaluate(capacity, greatest) // PAGE), names((capacity,))
        paged = self._paged(graph, caches, Input("pages", i32[batch, each]))
        for op in paged.ops:
            if any(gone & names(t.shape) for t in op.types):
                raise self._refusal(op, f"it has the size {capacity}, which pools have not")
        bounds = {name: pair for name, pair in graph.bounds.items() if name not in gone}
        return replace(Canonicalize().run(paged), bounds={**bounds, "P": (1, 1 + evaluate(batch, greatest) * each)})

    def _paged(self, graph: Graph, caches: list[Input], pages: Input) -> Graph:
        """The graph with pools for caches, its bounds as they were."""
        to, new = target(self.target), dict[Value, Value]()
        for cache in caches:
            _, heads, _, size = cache.shape
            new[cache] = Input(cache.key, cache.dtype[P, heads, PAGE, size])
        for op in graph.ops:
            if op not in new:
                made = _made(op, new, pages)
                if isinstance(made, RopeAndAppend | PrefillAttention) and (reason := to.refuses(made)):
                    raise self._refusal(op, reason)
                new.update(zip(op.results, made.results, strict=True))
        told = [i for i in graph.inputs if i not in caches]
        inputs = [*(new[i] for i in told), pages, *(new[i] for i in caches)]
        outputs = {name: new[value] for name, value in graph.outputs.items()}
        return replace(graph, inputs=tuple(i for i in inputs if isinstance(i, Input)), outputs=outputs)

    def _refusal(self, op: Op, reason: str) -> IRError:
        message = f"{op.name} at {op.loc or '?'} is not for a paged cache: {reason}"
        return IRError(message, "help: compile without --paged-kv-cache", source=op.source)


def _readers(graph: Graph, caches: list[Input]) -> Iterator[Op]:
    """What reads a cache, before or after its update."""
    for cache in caches:
        yield from graph.users[cache]
        yield from graph.users[graph.outputs[cache.key]]


def _why(op: Op) -> str:
    """Why an op that reads a cache can read no pages."""
    if isinstance(op, Attention):
        return unfit(op) or "its keys do not end with the new tokens"
    return f"only {RopeAndAppend.name} and {PrefillAttention.name} find their way in pages"


def _made(op: Op, new: Mapping[Value, Value], pages: Input) -> Op:
    """An op on the new operands; with pages, where it reads them."""
    if not isinstance(op, RopeAndAppend | PrefillAttention):
        return rebuilt(op, new, {})
    fields: dict[str, Any] = {**op.attributes, **{name: new[value] for name, value in op.operands.items()}}
    return type(op)(**fields, pages=pages, loc=op.loc, source=op.source)
