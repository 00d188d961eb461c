"""What a step of generation needs of the logits."""

from __future__ import annotations

from dataclasses import replace

from trtc.ir.graph import Graph
from trtc.ir.op import Value, at
from trtc.ir.ops import Add, Gather, Iota, Reshape, Slice, Sub, TopK, scalar
from trtc.ir.types import Dim, i32
from trtc.passes.base import Pass

B = Dim.named("B")


class ChooseNext(Pass, name="choose-next"):
    """Return the greatest logits of each sequence beside all of them, and what a greedy next step reads.

    The outputs ``top_ids`` i32[B, K] and ``top_logits`` [B, K] have the greatest first; ``input_ids.next`` i32[B, 1]
    and ``past_lengths.next`` i32[B] are the inputs of the next step, if each sequence takes its greatest. Where tokens
    are packed, ``input_ids.next`` is i32[B], and ``query_starts.next`` i32[B + 1] says that each sequence has one. A
    graph whose logits are those of every token, or without lengths, stays as it is.

    Options:
        count: K, how many; all of a smaller vocabulary.
    """

    count: int

    def run(self, graph: Graph) -> Graph:
        inputs = {i.key: i for i in graph.inputs}
        logits = graph.outputs.get("logits")
        is_packed = "query_starts" in inputs
        wanted = {"past_lengths", "query_starts" if is_packed else "input_lengths"}
        if not logits or logits.shape[:1] != (B,) or logits.type.rank != 2 or not wanted <= set(inputs):
            return graph
        vocabulary = logits.shape[1]
        assert isinstance(vocabulary, int)
        with at("transformer.next"):
            lengths = packed_lengths(inputs["query_starts"]) if is_packed else inputs["input_lengths"]
            ids = TopK(logits, min(self.count, vocabulary))
            chosen: dict[str, Value] = {
                "top_ids": ids,
                "top_logits": Gather(logits, ids, axis=1, batch=1),
                "input_ids.next": Slice(ids, 1, 0, 1),
                "past_lengths.next": Add(inputs["past_lengths"], lengths),
            }
            if is_packed:
                chosen["input_ids.next"] = Reshape(chosen["input_ids.next"], (B,))
                chosen["query_starts.next"] = Iota(B + 1)
        return replace(graph, outputs={**chosen, **graph.outputs})


def packed_lengths(starts: Value) -> Value:
    """i32[B], how many packed tokens each sequence has.

    Args:
        starts: i32[B + 1], where those of each begin.
    """
    ends = Gather(starts, Add(Iota(B), scalar(1, i32)))
    return Sub(ends, Gather(starts, Iota(B)))
