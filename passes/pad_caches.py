"""Caches whose heads have the size that attention kernels take."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

from trtc.ir.graph import Graph
from trtc.ir.op import Value, at
from trtc.ir.ops import (
    Attention,
    Broadcast,
    Concat,
    Input,
    KVCacheUpdate,
    PackedAttention,
    PackedKVCacheUpdate,
    Slice,
    scalar,
)
from trtc.ir.types import TensorType
from trtc.passes.base import Pass

AnyAttention: TypeAlias = Attention | PackedAttention
AnyUpdate: TypeAlias = KVCacheUpdate | PackedKVCacheUpdate


class PadCaches(Pass, name="pad-caches"):
    """Give caches heads of the size that attention kernels take, so new rows alone are padded, and no cache is copied.

    Kernels take q, k and v of one head size, in 16 bits a multiple of some number. What is behind a head is zero: it
    adds nothing to a score, and is cut off the result. Attention with a softcap or slopes, which no kernel takes, keeps
    its caches, and so does a cache that anything else reads.

    Options:
        multiple: of what the sizes of 16-bit heads are multiples.
        widest: the greatest size of 16-bit heads that is made such a multiple.
    """

    multiple: int
    widest: int

    def run(self, graph: Graph) -> Graph:
        new, wider = dict[Value, Value](), dict[Value, Value]()
        for op in graph.ops:
            if isinstance(op, AnyAttention) and (size := self._size(op)) and _is_alone(graph, op):
                with at(op.loc, absolute=True):
                    wider |= _wider(op.k, size) | _wider(op.v, size)
                    operands = {op.q: padded(op.q, size), op.k: wider[op.k], op.v: wider[op.v]}
                    head = op.type.shape[-1]
                    assert isinstance(head, int)
                    new[op] = Slice(op.with_operands(operands), op.type.rank - 1, 0, head)
        inputs = tuple(i for op in graph.inputs if isinstance(i := wider.get(op, op), Input))
        outputs = {name: wider.get(value, value) for name, value in graph.outputs.items()}
        return replace(graph, inputs=inputs, outputs=outputs).replace(new)

    def _size(self, op: AnyAttention) -> int:
        """The head size that a kernel takes, where it is another; 0 where none would take the op."""
        head, size = op.q.shape[-1], op.v.shape[-1]
        if op.softcap or op.slopes or not (isinstance(head, int) and isinstance(size, int)):
            return 0
        wide = max(head, size)
        if op.q.dtype.bits < 32 and wide <= self.widest:
            wide += -wide % self.multiple
        return 0 if head == size == wide else wide


def _is_alone(graph: Graph, op: AnyAttention) -> bool:
    """Whether nothing but the attention reads the updates of its caches, and nothing but they the caches."""
    updates = [x for x in (op.k, op.v) if isinstance(x, AnyUpdate) and isinstance(x.cache, Input)]
    own = (graph.users[u] == (op,) and graph.users[u.cache] == (u,) for u in updates)
    return len(updates) == 2 and op.k is not op.v and all(own)


def _wider(update: Value, size: int) -> dict[Value, Value]:
    """A cache and its update, and both with wider heads."""
    assert isinstance(update, AnyUpdate) and isinstance(update.cache, Input)
    cache = Input(update.cache.key, TensorType(update.dtype, (*update.shape[:-1], size)))
    operands = {update.cache: cache, update.new: padded(update.new, size)}
    return {update.cache: cache, update: update.with_operands(operands)}


def padded(x: Value, size: int) -> Value:
    """Heads with zeros behind each, up to a size."""
    *before, head = x.shape
    assert isinstance(head, int)
    if head == size:
        return x
    return Concat((x, Broadcast(scalar(0, x.dtype), (*before, size - head))), x.type.rank - 1)
