"""Small random inputs for a graph, such as its ops can take."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from trtc.ir import ops, types
from trtc.ir.errors import IRError
from trtc.ir.graph import Graph
from trtc.ir.op import Array, Op, Value
from trtc.ir.types import Dim, DType, Size, TensorType

Range = tuple[int, int]   # least and greatest, both included
TRIES = 200
SMALL, ROOMY = 4, 9       # the greatest value of a size; of one that must hold another, such as a cache's capacity
ANY: Range = (0, 3)       # of integers that nothing asks anything of


def sample(
    graph: Graph, seed: int = 0, weights: Mapping[str, Array] | None = None, *, sizes: Mapping[str, int] | None = None
) -> dict[str, Array]:
    """Random tensors for a graph, by key: floats standard normal, integers within what the ops that read them take.

    Args:
        weights: the tensors of the checkpoint; random ones, scaled by 1 / sqrt(fan-in), where there are none.
        sizes: values for some of the symbolic sizes; the others are small, within their bounds.
    """
    rng = np.random.default_rng(seed)
    chosen = _sizes(graph, rng, sizes or {})
    ranges = _ranges(graph, chosen)
    tensors: dict[str, Array] = {}
    for op in graph.ops:
        if isinstance(op, ops.Input):
            tensors[op.key] = _input(op, rng, chosen, ranges)
        elif isinstance(op, ops.Weight):
            tensors[op.key] = weights[op.key] if weights is not None else _weight(op.type, rng)
    return tensors


def _sizes(graph: Graph, rng: np.random.Generator, given: Mapping[str, int]) -> dict[str, int]:
    """A value for each symbolic size, such that no axis is empty and caches hold what is written."""
    pairs = list(_holds(graph))
    roomy = types.names(large for large, _ in pairs) - types.names(small for _, small in pairs)
    axes = {s for op in graph.ops for t in op.types for s in t.shape if not isinstance(s, int)}
    for _ in range(TRIES):
        found = {
            name: given[name] if name in given else _draw(rng, low, min(high, ROOMY if name in roomy else SMALL))
            for name, (low, high) in graph.bounds.items()
        }
        fits = all(types.evaluate(large, found) >= types.evaluate(small, found) for large, small in pairs)
        if fits and all(types.evaluate(size, found) > 0 for size in axes):
            return found
    raise IRError(f"@{graph.name} has no small sizes within its bounds at which no axis is empty and caches have room")


def _draw(rng: np.random.Generator, low: int, high: int) -> int:
    return int(rng.integers(low, max(low, high) + 1))


def _holds(graph: Graph) -> Iterator[tuple[Size, Size]]:
    """Pairs of sizes of which the first must be the greater: a cache's and the new tokens', keys and queries."""
    for op in graph.ops:
        if isinstance(op, ops.KVCacheUpdate):
            yield op.cache.shape[2], op.new.shape[2]
        elif isinstance(op, ops.Attention) and (op.causal or op.lengths):
            yield op.k.shape[2], op.q.shape[2]
        elif isinstance(op, ops.PackedAttention):   # one sequence may have all tokens
            yield op.k.shape[2], op.q.shape[0]
        elif isinstance(op, ops.Input) and op.key == "query_starts":   # every sequence has a token
            yield Dim.named("T"), op.shape[0] - 1


def _ranges(graph: Graph, sizes: Mapping[str, int]) -> dict[Value, Range]:
    """For integer values, what the ops that read them take: from the last op back to the inputs."""
    ranges: dict[Value, Range] = {}

    def want(value: Value, low: int, high: int) -> None:
        known = ranges.get(value, (low, high))
        ranges[value] = max(known[0], low), min(known[1], high)

    def number(size: Size) -> int:
        return types.evaluate(size, sizes)

    for op in reversed(graph.ops):
        match op:
            case ops.Embedding(table, ids):
                want(ids, 0, number(table.shape[0]) - 1)
            case ops.Attention(q, k, _, lengths) if lengths:
                want(lengths, number(q.shape[2]), number(k.shape[2]))
            case ops.PackedAttention(q, k, _, _, lengths):
                want(lengths, number(q.shape[0]), number(k.shape[2]))
            case ops.PackedKVCacheUpdate(cache, new, start):
                want(start, 0, number(cache.shape[2]) - number(new.shape[0]))
            case ops.KVCacheUpdate(cache, new, start):
                want(start, 0, number(cache.shape[2]) - number(new.shape[2]))
            case ops.Experts(_, chosen, _, fc):
                want(chosen, 0, number(fc.shape[0]) - 1)
            case ops.Gather(x, indices, axis):
                want(indices, 0, number(x.shape[axis]) - 1)
            case _:
                pass
        if op in ranges:
            for value, low, high in _back(op, *ranges[op], sizes):
                want(value, low, high)
    _by_name(graph, sizes, want)
    return ranges


def _back(op: Op, low: int, high: int, sizes: Mapping[str, int]) -> Iterator[tuple[Value, int, int]]:
    """What an op's operands may be where its result must lie in low..high."""
    match op:
        case ops.Reshape(x) | ops.Broadcast(x) | ops.Transpose(x) | ops.Slice(x) | ops.Cast(x) | ops.Gather(x):
            yield x, low, high
        case ops.Concat(parts):
            yield from ((part, low, high) for part in parts)
        case ops.Add(a, b):
            for x, other in ((a, b), (b, a)):
                if known := _known(other, sizes):
                    yield x, low - known[0], high - known[1]
        case ops.Sub(a, b):
            if known := _known(b, sizes):
                yield a, low + known[1], high + known[0]
        case _:
            pass


def _known(value: Value, sizes: Mapping[str, int]) -> Range | None:
    """The least and greatest element of a value that no input decides."""
    match value:
        case ops.Constant(values):
            return int(min(values)), int(max(values))
        case ops.Iota(size):
            return 0, types.evaluate(size, sizes) - 1
        case ops.SizeOf(x, axis):
            number = types.evaluate(x.shape[axis], sizes)
            return number, number
        case ops.Reshape(x) | ops.Broadcast(x) | ops.Transpose(x) | ops.Cast(x):
            return _known(x, sizes)
        case _:
            return None


def _by_name(graph: Graph, sizes: Mapping[str, int], want: Callable[[Value, int, int], None]) -> None:
    """What the inputs of a model's signature hold, whether or not an op depends on it."""
    inputs = {i.key: i for i in graph.inputs}
    if "input_ids" not in inputs or inputs["input_ids"].type.rank != 2:
        return
    tokens = types.evaluate(inputs["input_ids"].shape[1], sizes)
    if "input_lengths" in inputs:
        want(inputs["input_lengths"], 1, tokens)
    caches = [i for key, i in inputs.items() if key.endswith("_cache") and i.type.rank == 4]
    if "past_lengths" in inputs and caches:
        capacity = min(types.evaluate(cache.shape[2], sizes) for cache in caches)
        want(inputs["past_lengths"], 0, capacity - tokens)


def _input(op: ops.Input, rng: np.random.Generator, sizes: Mapping[str, int], ranges: Mapping[Value, Range]) -> Array:
    shape = tuple(types.evaluate(size, sizes) for size in op.shape)
    if op.dtype.is_float:
        return rng.standard_normal(shape).astype(op.dtype.numpy)
    if op.dtype.kind == "bool":
        return rng.integers(0, 2, shape).astype(np.bool_)
    if op.key == "query_starts":   # rising, from 0 to all tokens
        rest = rng.choice(np.arange(1, sizes["T"]), shape[0] - 2, replace=False)
        return np.array([0, *sorted(rest), sizes["T"]], np.int32)
    low, high = ranges.get(op, ANY)
    if low > high:
        raise IRError(f"%{op.key} must be at least {low} and at most {high}, so there is no sample of it")
    return rng.integers(low, high + 1, shape).astype(op.dtype.numpy)


def _weight(of: TensorType, rng: np.random.Generator) -> Array:
    shape = tuple(size for size in of.shape if isinstance(size, int))
    if of.dtype.is_float:
        scale = 1 / math.sqrt(shape[-1]) if len(shape) > 1 else 1.0
        return (rng.standard_normal(shape, np.float32) * np.float32(scale)).astype(of.dtype.numpy)
    return rng.integers(*_span(of.dtype), shape).astype(of.dtype.numpy)


def _span(dtype: DType) -> Range:
    """Numbers that an integer type of any width holds; the end is left out."""
    return (-8, 8) if dtype.kind == "int" else (0, 2 if dtype.kind == "bool" else 16)
