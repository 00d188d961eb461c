"""An export's graph, made for sequences of different lengths over caches of a fixed capacity.

An export runs one batch whose sequences share one past of P tokens. Here each sequence is such a run of its own: where
the graph computes with the number P, `past_lengths` stands for it, so that what depends on it becomes one value a
sequence; and P + S, the keys that a run has, becomes the capacity M of caches, in which attention hides what is beyond.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trtc.errors import TrtcError
from trtc.frontend.onnx.interface import B, P, S, T
from trtc.frontend.onnx.known import value_of
from trtc.ir.graph import Graph
from trtc.ir.op import Op, Value, at
from trtc.ir.ops import (
    GELU,
    Add,
    And,
    Binary,
    Broadcast,
    Cast,
    Compare,
    Concat,
    Embedding,
    Gather,
    Input,
    Iota,
    KVCacheUpdate,
    Linear,
    MatMul,
    Mul,
    Reduce,
    Reshape,
    SizeOf,
    Slice,
    Softmax,
    Sub,
    Transpose,
    Unary,
    Where,
    scalar,
)  # fmt: skip
from trtc.ir.types import Dim, Size, TensorType, i32, names, substitute
from trtc.passes.specialize import rebuilt

M = Dim.named("M")
CAPACITY: dict[str, Size] = {"P": M - S}
ALIGNED = (Binary, Compare, And, Where, Unary, Cast, GELU, MatMul)
"""Ops whose operands broadcast to the result, at least in the leading axes."""


class Ragged:
    """Rebuilds an export's graph, op by op.

    Args:
        graph: with inputs ``input_ids`` i32[B, S] and caches float[B, heads, P, size].
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.past, self.lengths = Input("past_lengths", i32[B]), Input("input_lengths", i32[B])
        self.ids = next(i for i in graph.inputs if i.key == "input_ids")
        self.caches: dict[Value, Input] = {
            i: Input(i.key, TensorType(i.dtype, (*i.shape[:2], M, i.shape[3]))) for i in graph.inputs if i != self.ids
        }
        self.new: dict[Value, Value] = {self.ids: self.ids, **self.caches}
        self.spread: set[Value] = set()   # what has become one value a sequence: its new value has a leading axis B
        for op in graph.ops:
            if op not in self.new:
                with at(op.loc, absolute=True):
                    self.new[op] = self._made(op)

    def _made(self, op: Op) -> Value:
        match op:
            case Concat((past, new), axis=2) if past in self.caches and op.shape[2] == T:
                return KVCacheUpdate(self.caches[past], self.new[new], self.past)
            case SizeOf(x, axis) if "P" in names([x.shape[axis]]):
                self.spread.add(op)
                return self._number(x.shape[axis], op)
            case Iota(size) if "P" in names([size]) and size != T:
                raise _refused(op, f"counts to {size}")
            case _ if any(v in self.caches for v in op.operands.values()) and not isinstance(op, SizeOf):
                raise _refused(op, "reads the past alone")
            case _ if any(v in self.spread for v in op.operands.values()):
                made = self._spread(op)
            case _:
                made = rebuilt(op, self.new, CAPACITY)
        if any(c < 0 for size in made.shape if isinstance(size, Dim) for _, c in size.terms):
            raise _refused(op, f"makes {op.type}")
        return made

    def _number(self, size: Size, op: Op) -> Value:
        """i32[B], a size that counts the past, for each sequence."""
        rest = substitute(size, {"P": 0})
        factor = substitute(size - rest, {"P": 1})
        if not isinstance(factor, int) or factor * P + rest != size:
            raise _refused(op, f"computes with {size}")
        value: Value = self.past if factor == 1 else Mul(self.past, scalar(factor, i32))
        if rest == 0:
            return value
        return Add(value, value_of(np.array(rest, object), {"B": (self.ids, 0), "S": (self.ids, 1)}))

    def _spread(self, op: Op) -> Value:
        """An op on values of which some are one a sequence."""
        shape = _sized(op.shape)
        if isinstance(op, Gather) and B in op.x.shape and op.x not in self.spread:
            if op.x.shape[0] != B or op.axis == 0 or op.batch:
                raise _refused(op, "looks up across sequences")
            return Gather(self.new[op.x], self.new[op.indices], op.axis, 1)
        if "B" in names(shape):
            return self._in_place(op, shape)
        self.spread.add(op)
        return self._ahead(op, shape)

    def _in_place(self, op: Op, shape: tuple[Size, ...]) -> Value:
        """The result has the batch among its axes: what is one a sequence lies along it from here on."""
        if shape.count(B) != 1 or not isinstance(op, (*ALIGNED, Broadcast, Concat)):
            raise _refused(op, "joins sequences")
        batch = shape.index(B)
        placed = {v: self._placed(v, batch, len(shape), op) for v in op.operands.values()}
        return rebuilt(op, placed, CAPACITY)

    def _placed(self, value: Value, batch: int, rank: int, op: Op) -> Value:
        """A value with the sequences along the axis of the batch."""
        made = self.new[value]
        if value not in self.spread:
            return made
        own = (1,) * (rank - value.type.rank) + _sized(value.shape)
        if own[batch] != 1:
            raise _refused(op, f"has {own[batch]} where the batch is")
        rest = (*own[:batch], *own[batch + 1 :])
        ahead = made if made.shape == (B, *rest) else Reshape(made, (B, *rest))
        return ahead if batch == 0 else Transpose(ahead, (*range(1, batch + 1), 0, *range(batch + 1, rank)))

    def _ahead(self, op: Op, shape: tuple[Size, ...]) -> Value:
        """The result is one a sequence: it gets a leading axis."""
        rank, new = len(shape), self.new
        match op:
            case Broadcast(x):
                return Broadcast(self._padded(x, rank), (B, *shape))
            case Reshape(x):
                return Reshape(new[x], (B, *shape))
            case Transpose(x, axes):
                return Transpose(new[x], (0, *(a + 1 for a in axes)))
            case Slice(x, axis, start, size):
                return Slice(new[x], axis + 1, start, size)
            case Concat(parts, axis):
                return Concat(tuple(self._whole(p) for p in parts), axis + 1)
            case Embedding(table, ids) if table not in self.spread:
                return Embedding(new[table], new[ids])
            case Gather(x, indices, axis, 0):
                return self._looked_up(x, indices, axis)
            case Reduce() | Softmax():
                return type(op)(new[op.x], op.axis + 1)
            case _ if isinstance(op, ALIGNED):
                return rebuilt(op, {v: self._padded(v, rank) for v in op.operands.values()}, CAPACITY)
            case _:
                raise _refused(op, "depends on the past")

    def _padded(self, value: Value, rank: int) -> Value:
        """An operand that broadcasts to a result of this rank behind a leading axis."""
        if value not in self.spread or value.type.rank == rank:
            return self.new[value]
        return Reshape(self.new[value], (B, *(1,) * (rank - value.type.rank), *_sized(value.shape)))

    def _whole(self, value: Value) -> Value:
        made = self.new[value]
        return made if value in self.spread else Broadcast(made, (B, *made.shape))

    def _looked_up(self, x: Value, indices: Value, axis: int) -> Value:
        table, places = self.new[x], self.new[indices]
        if x in self.spread:
            return Gather(table, places, axis + 1, int(indices in self.spread))
        found = Gather(table, places, axis)
        return Transpose(found, (axis, *(a for a in range(found.type.rank) if a != axis))) if axis else found


def _sized(shape: Sequence[Size]) -> tuple[Size, ...]:
    return tuple(substitute(size, CAPACITY) for size in shape)


def _refused(op: Op, what: str) -> TrtcError:
    return TrtcError(
        f"{op.name} at {op.loc or '?'} {what}, but the past may be read only joined with the new tokens or as a number"
    )


def last_token(logits: Value, lengths: Value) -> Value:
    """logits[b, lengths[b] - 1]; what is done to each token alone is done to the last alone."""
    match logits:
        case Cast(x, to):
            return Cast(last_token(x, lengths), to)
        case Unary():
            return logits.with_operands({logits.x: last_token(logits.x, lengths)})
        case Binary(x, number) if number.type.rank == 0:
            return logits.with_operands({x: last_token(x, lengths)})
        case _:
            pass
    index = Sub(lengths, scalar(1, i32))
    if isinstance(logits, Linear):
        return Linear(Gather(logits.x, index, axis=1, batch=1), logits.weight, logits.bias, loc=logits.loc)
    return Gather(logits, index, axis=1, batch=1)
