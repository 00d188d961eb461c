"""What a step of generation needs of the logits."""

from __future__ import annotations

from dataclasses import replace

from trtc.ir.graph import Graph
from trtc.ir.op import Value, at
from trtc.ir.ops import Add, Gather, Slice, TopK
from trtc.passes.base import Pass


class ChooseNext(Pass, name="choose-next"):
    """Return the greatest logits of each sequence beside all of them, and what a greedy next step reads.

    The outputs ``top_ids`` i32[B, K] and ``top_logits`` [B, K] have the greatest first; ``input_ids.next`` i32[B, 1]
    and ``past_lengths.next`` i32[B] are the inputs of the next step, if each sequence takes its greatest. A graph
    whose logits are those of every token, or without lengths, stays as it is.

    Options:
        count: K, how many; all of a smaller vocabulary.
    """

    count: int

    def run(self, graph: Graph) -> Graph:
        inputs = {i.key: i for i in graph.inputs}
        logits = graph.outputs.get("logits")
        if not logits or logits.type.rank != 2 or not {"past_lengths", "input_lengths"} <= set(inputs):
            return graph
        vocabulary = logits.shape[1]
        assert isinstance(vocabulary, int)
        with at("transformer.next"):
            ids = TopK(logits, min(self.count, vocabulary))
            chosen: dict[str, Value] = {
                "top_ids": ids,
                "top_logits": Gather(logits, ids, axis=1, batch=1),
                "input_ids.next": Slice(ids, 1, 0, 1),
                "past_lengths.next": Add(inputs["past_lengths"], inputs["input_lengths"]),
            }
        return replace(graph, outputs={**chosen, **graph.outputs})
