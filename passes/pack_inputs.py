"""Tokens of a batch in one row, without padding."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import takewhile

from trtc.ir.errors import PassError
from trtc.ir.graph import Graph
from trtc.ir.op import Op, Value, at
from trtc.ir.ops import (
    Add,
    Attention,
    Cast,
    Concat,
    Constant,
    Gather,
    Input,
    Iota,
    KVCacheUpdate,
    LessEqual,
    MatMul,
    PackedAttention,
    PackedKVCacheUpdate,
    Reduce,
    ReduceSum,
    Reshape,
    SizeOf,
    Slice,
    Softmax,
    Sub,
    product,
    scalar,
)  # fmt: skip
from trtc.ir.types import Dim, Size, i32, names
from trtc.passes.base import Pass
from trtc.passes.specialize import rebuilt, substituted

B, S, T = map(Dim.named, "BST")
WORLD = {"B": T, "S": 1}   # of tokens: each is a sequence of one


class PackInputs(Pass, name="pack-inputs"):
    """Take the tokens of all sequences in one row, instead of sequences padded to the longest.

    ``input_ids`` i32[B, S] and ``input_lengths`` i32[B] become ``input_ids`` i32[T] and ``query_starts`` i32[B + 1]:
    sequence b has the tokens from ``query_starts[b]`` up to ``query_starts[b + 1]``. Whatever is computed for each
    token is computed for T sequences of one token; only attention, the caches' update and the choice of last tokens
    know of sequences. An output of every token has one row, too. A graph without ``input_lengths`` stays as it is.

    Options:
        max-tokens: T at most; never more than B * S at its greatest, which it is where 0.
    Errors:
        PassError: what an op does depends on how the tokens are padded, say attention that is not fused.
    """

    max_tokens: int = 0

    def run(self, graph: Graph) -> Graph:
        inputs = {i.key: i for i in graph.inputs}
        if not {"input_ids", "input_lengths", "past_lengths"} <= set(inputs):
            return graph
        packing = _Packing(graph, inputs)
        outputs = {name: packing.output(value) for name, value in graph.outputs.items()}
        least, (batch, tokens) = graph.bounds["B"][0], (graph.bounds[n][1] for n in "BS")
        bounds = {name: pair for name, pair in graph.bounds.items() if name != "S"}
        bounds["T"] = (least, min(self.max_tokens or batch * tokens, batch * tokens))
        kept = [i for key, i in inputs.items() if key not in ("input_ids", "input_lengths")]
        return replace(graph, inputs=(packing.ids, packing.starts, *kept), outputs=outputs, bounds=bounds)


class _Packing:
    """The values of a graph, made anew: for each sequence, or for each token of all.

    Args:
        graph: the padded one.
    """

    def __init__(self, graph: Graph, inputs: dict[str, Input]) -> None:
        self.ids, self.starts = Input("input_ids", i32[T]), Input("query_starts", i32[B + 1])
        self.past, self.padded = inputs["past_lengths"], inputs["input_lengths"]
        with at("transformer.packing"):
            self.first = Gather(self.starts, Iota(B))
            after = Gather(self.starts, Add(Iota(B), scalar(1, i32)))
            self.lengths, self.last = Sub(after, self.first), Sub(after, scalar(1, i32))
            self.owner = self._owner(after)   # i32[T], the sequence of each token
            offset = Sub(Iota(T), Gather(self.first, self.owner))
            self.positions = Add(Gather(self.past, self.owner), offset)
            self.totals = Add(self.past, self.lengths)
        self.tokens: dict[Value, Value] = {inputs["input_ids"]: Reshape(self.ids, (T, 1))}
        self.sequences: dict[Value, Value] = {self.past: self.past, self.padded: self.lengths}
        self.refused: dict[Value, PassError] = {}
        self.caches: set[Value] = set()   # and what is made of them: nothing that each token should have of its own
        for op in graph.ops:   # operands first
            if graph.is_constant(op) or self._is_neither(op):
                self.tokens[op] = self.sequences[op] = op
            elif op not in self.tokens and op not in self.sequences:
                try:
                    with at(op.loc, absolute=True):
                        self._add(op)
                except PassError as error:   # raised once something that stays needs it
                    self.refused[op] = error

    def _owner(self, after: Value) -> Value:
        """How many sequences end before each token, or with it."""
        ended = Cast(LessEqual(Reshape(after, (1, B)), Reshape(Iota(T), (T, 1))), i32)
        return Reshape(ReduceSum(ended, 1), (T,))

    def _is_neither(self, op: Op) -> bool:
        """Whether a value is the same for all sequences and tokens, as weights are."""
        fixed = not names(op.shape) & {"B", "S"} and not isinstance(op, SizeOf)
        return fixed and all(self.tokens.get(v) is v for v in op.operands.values())

    def _add(self, op: Op) -> None:
        if isinstance(op, Input | KVCacheUpdate) or self.caches & set(op.operands.values()):
            self.caches.add(op)
        if isinstance(op, Input):
            self.sequences[op] = op
        elif isinstance(op, KVCacheUpdate):
            _, heads, _, head = op.new.shape
            new = Reshape(self.token(op.new), (T, heads, head))
            self.sequences[op] = PackedKVCacheUpdate(op.cache, new, self.sequence(op.start), self.starts)
        elif isinstance(op, Attention):
            self.tokens[op] = self._attention(op)
        elif isinstance(op, Gather) and self._takes_last(op):
            rows = Reshape(self.token(op.x), (T, *op.x.shape[2:]))
            self.sequences[op] = Gather(rows, self.last)
        elif isinstance(op, Add) and self._places(op):
            self.tokens[op] = Reshape(self.positions, substituted(op.shape, WORLD))
        elif not names(op.shape) & {"S"} and all(v in self.sequences for v in op.operands.values()):
            self.sequences[op] = op.with_operands(self.sequences)
        elif isinstance(op, Iota | SizeOf):
            raise _refusal(op, "it counts tokens of the padded batch")
        else:
            self.tokens[op] = self._of_tokens(op)

    def _attention(self, op: Attention) -> Value:
        """Attention of every token to the keys of its sequence, whose lengths count no padding."""
        whole = isinstance(op.lengths, Add) and self.past in op.lengths.operands.values() and op.causal
        if not whole or op.mask:
            raise _refusal(op, "it is masked by more than causality and the sequences' lengths")
        _, heads, _, head = op.q.shape
        q, (k, v) = Reshape(self.token(op.q), (T, heads, head)), (self.sequence(x) for x in (op.k, op.v))
        packed = PackedAttention(
            q, k, v, self.starts, self.totals, op.slopes, scale=op.scale, window=op.window, softcap=op.softcap
        )
        return Reshape(packed, (T, heads, 1, op.shape[3]))

    def _takes_last(self, op: Gather) -> bool:
        """Whether it takes each sequence's last token."""
        match op:
            case Gather(indices=Sub(a=lengths, b=Constant(values=(1,))), axis=1, batch=1):
                return lengths is self.padded and op.x.shape[:2] == (B, S)
            case _:
                return False

    def _places(self, op: Add) -> bool:
        """Whether it says where each token of the padded batch stands."""
        parts = [v.x if isinstance(v, Reshape) else v for v in (op.a, op.b)]
        return self.past in parts and any(isinstance(p, Iota) and p.size == S for p in parts)

    def _of_tokens(self, op: Op) -> Value:
        """An op on T sequences of one token."""
        if any(names(axis) & {"B", "S"} for axis in _joined(op)):
            raise _refusal(op, "it joins tokens")
        if any(len([s for s in op.shape if name in names((s,))]) > 1 for name in "BS"):
            raise _refusal(op, "it relates tokens to one another")
        if isinstance(op, Reshape) and _before_tokens(op.x.shape) != _before_tokens(op.sizes):
            raise _refusal(op, "it mixes tokens with what stands before them")
        new = {v: self.token(v) for v in op.operands.values()}
        made = rebuilt(op, new, WORLD)
        assert made.type == substituted(op.type, WORLD), f"{op.name} of tokens is {made.type}"
        return made

    def token(self, value: Value) -> Value:
        """A value for each token; one of its sequence is the same for each of it."""
        if value in self.sequences and value not in self.tokens and value not in self.caches:
            self.tokens[value] = Gather(self.sequences[value], self.owner)
        return self._of(self.tokens, value)

    def sequence(self, value: Value) -> Value:
        """A value for each sequence."""
        return self._of(self.sequences, value)

    def _of(self, world: dict[Value, Value], value: Value) -> Value:
        if value in self.refused:
            raise self.refused[value]
        if value not in world:
            assert isinstance(value, Op)
            raise _refusal(value, "each token would have one of its own")
        return world[value]

    def output(self, value: Value) -> Value:
        """An output: of each sequence, or of every token."""
        if value.shape[:2] != (B, S):
            return self.sequence(value)
        return Reshape(self.token(value), (T, *value.shape[2:]))


def _joined(op: Op) -> Iterable[tuple[Size, ...]]:
    """The sizes along which an op brings elements together."""
    match op:
        case Reduce() | Softmax():
            yield (op.x.shape[op.axis],)
        case Slice():
            yield (op.x.shape[op.axis],)
        case Concat():
            yield (op.shape[op.axis],)
        case Gather():
            yield (op.x.shape[op.axis],)
        case MatMul():
            yield (op.a.shape[-1],)
        case _:
            return


def _before_tokens(shape: tuple[Size, ...]) -> Size:
    """How many elements of a sequence stand before its tokens, say heads."""
    sizes = takewhile(lambda size: "S" not in names((size,)), shape)
    return product(tuple(substituted(size, {"B": 1}) for size in sizes))


def _refusal(op: Op, reason: str) -> PassError:
    return PassError(f"pack-inputs: {op.name} at {op.loc or '?'} cannot take packed tokens: {reason}")
