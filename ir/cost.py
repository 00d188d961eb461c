"""What ops cost: floating-point operations and bytes moved, from their types alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from trtc.ir import ops as o
from trtc.ir.graph import Graph, ordered
from trtc.ir.op import Op, Result, Value
from trtc.ir.types import Size, TensorType, evaluate

Sizes: TypeAlias = Mapping[str, int]


@dataclass(frozen=True)
class Cost:
    """The cost of some work.

    Args:
        flops: additions, multiplications, and functions of one element; a multiply-add is two.
        read, written: bytes that must be moved from and to memory, each operand and result once.
    """

    flops: int = 0
    read: int = 0
    written: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.read + other.read, self.written + other.written)

    @property
    def bytes(self) -> int:
        return self.read + self.written

    def seconds(self, flops: float, bandwidth: float) -> float:
        """The least time that it takes where so many operations and bytes are done in a second: the roofline.

        >>> Cost(flops=2000, read=100).seconds(flops=1e3, bandwidth=1e3)
        2.0
        """
        return max(self.flops / flops, self.bytes / bandwidth)


def cost(op: Op, sizes: Sizes, context: int | None = None) -> Cost:
    """What one op costs by itself.

    Args:
        sizes: the value of each symbolic size.
        context: keys that attention sees of each sequence; all that the cache has room for where not given.
    """
    if isinstance(op, FREE):
        return Cost()
    operands = sum(nbytes(v.type, sizes) for v in set(op.operands.values()))
    results = sum(nbytes(t, sizes) for t in op.types)
    if isinstance(op, o.Attention):
        return _attention(op, sizes, context)
    if isinstance(op, o.KVCacheUpdate):   # in place
        moved = nbytes(op.new.type, sizes)
        return Cost(0, moved + nbytes(op.start.type, sizes), moved)
    if isinstance(op, o.Embedding | o.Gather):   # only the rows that are looked up
        indices = op.ids if isinstance(op, o.Embedding) else op.indices
        return Cost(0, results + nbytes(indices.type, sizes), results)
    if isinstance(op, o.Experts):
        return _experts(op, sizes)
    return Cost(flops(op, sizes), operands, results)


def fused_cost(ops: Iterable[Op], graph: Graph, sizes: Sizes, context: int | None = None) -> Cost:
    """What some ops of a graph cost where they are one: what passes between them does not go through memory.

    Args: as of `cost`.
    """
    inside = list(ops)
    made, results, here = set[Value](inside), set(graph.outputs.values()), set[Value](inside)
    total = Cost()
    for op in inside:
        alone, operands = cost(op, sizes, context), set(op.operands.values())
        within = sum(nbytes(v.type, sizes) for v in operands if owner(v) in here)
        here |= {owner(v) for v in operands}   # what one op has read is there for the next
        leaves = op in results or any(user not in made for user in _readers(op, graph))
        total += Cost(alone.flops, max(0, alone.read - within), alone.written if leaves else 0)
    return total


def owner(value: Value) -> Value:
    """The value that this one is a view of; itself where it is none."""
    while isinstance(value, VIEWS):
        value = value.x
    return value


def _readers(value: Value, graph: Graph) -> Iterator[Op]:
    """The ops that read a value, itself or through a view of it."""
    for user in graph.users[value]:
        if isinstance(user, VIEWS):
            yield from _readers(user, graph)
        else:
            yield user


def flops(op: Op, sizes: Sizes) -> int:
    """The floating-point operations of an op; of one that is made of others, the sum of theirs."""
    for kinds, count in FLOPS:
        if isinstance(op, kinds):
            return count(op, sizes)
    parts = op.decompose()
    if parts is None:
        return 0
    outputs = cast("tuple[Value, ...]", parts if isinstance(parts, tuple) else (parts,))
    inside = ordered(outputs, op.operands.values())[len(set(op.operands.values())) :]
    return sum(flops(part, sizes) for part in inside)


def numel(shape: tuple[Size, ...], sizes: Sizes) -> int:
    """The elements of a tensor of this shape."""
    return math.prod(evaluate(s, sizes) for s in shape)


def nbytes(of: TensorType, sizes: Sizes) -> int:
    """The bytes of a tensor of this type."""
    return -(-numel(of.shape, sizes) * of.dtype.bits // 8)


def _attention(op: o.Attention, sizes: Sizes, context: int | None) -> Cost:
    batch, heads, tokens, head = (evaluate(s, sizes) for s in op.q.shape)
    kv_heads, room, out = (evaluate(s, sizes) for s in op.v.shape[1:])
    keys = room if context is None else min(room, context)
    cache = batch * kv_heads * keys * (head + out) * op.k.dtype.bits // 8
    others = [v for v in (op.lengths, op.mask, op.slopes) if v]
    read = nbytes(op.q.type, sizes) + cache + sum(nbytes(v.type, sizes) for v in others)
    return Cost(2 * batch * heads * tokens * keys * (head + out), read, nbytes(op.type, sizes))


def _experts(op: o.Experts, sizes: Sizes) -> Cost:
    tokens, picks = (evaluate(s, sizes) for s in op.chosen.shape)
    experts, width, hidden = (evaluate(s, sizes) for s in op.fc.shape)
    weights = 3 * width * hidden * op.fc.dtype.bits // 8 * min(experts, tokens * picks)
    others = sum(nbytes(v.type, sizes) for v in (op.x, op.chosen, op.shares))
    return Cost(6 * tokens * picks * width * hidden, weights + others, nbytes(op.type, sizes))


def _linear(op: Any, sizes: Sizes) -> int:
    made = numel(op.shape, sizes)
    return 2 * made * evaluate(op.weight.shape[-1], sizes) + (made if op.bias else 0)


def _matmul(op: Any, sizes: Sizes) -> int:
    return 2 * numel(op.shape, sizes) * evaluate(op.a.shape[-1], sizes)


def _each(op: Any, sizes: Sizes) -> int:
    return numel(op.shape, sizes) if op.dtype.is_float else 0


def _reduced(op: Any, sizes: Sizes) -> int:
    return numel(op.x.shape, sizes) if op.dtype.is_float else 0


FREE = (o.Input, o.Weight, o.Constant, o.SizeOf, Result, o.Reshape, o.Broadcast)
"""Ops that move nothing."""
VIEWS = (o.Reshape, o.Broadcast)
"""Ops whose result is their operand, otherwise looked at."""
FLOPS: tuple[tuple[Any, Callable[[Any, Sizes], int]], ...] = (
    (o.Linear, _linear),
    (o.MatMul, _matmul),
    (o.Softmax, lambda op, sizes: 5 * numel(op.shape, sizes)),   # max, subtract, exp, sum, divide
    ((o.ReduceSum, o.ReduceMean, o.ReduceMax), _reduced),
    (
        (
            o.Add, o.Sub, o.Mul, o.Div, o.Pow, o.Maximum, o.Minimum, o.Neg, o.Exp, o.Sqrt, o.Reciprocal, o.Tanh,
            o.Sigmoid, o.Erf, o.Cos, o.Sin, o.ReLU,
        ),
        _each,
    ),
)   # fmt: skip
"""Of primitives; any other that is not made of these does none."""
