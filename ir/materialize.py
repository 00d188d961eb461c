"""Constant expressions as bytes: one at a time, over memory-mapped weights."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from trtc.ir.graph import Graph, ordered
from trtc.ir.op import Array, Op, Result, Value
from trtc.ir.ops import Constant, Weight


@dataclass(frozen=True)
class Stored:
    """A constant that an engine stores: its name there, made of the ``loc`` and the operand of the op that reads it."""

    name: str
    value: Value


def frontier(graph: Graph, computed: Callable[[Op], bool] = lambda _: False) -> list[Stored]:
    """The constants that the rest of a graph reads, in order of use; literals of one element are left out.

    Args:
        computed: says which constant ops the engine computes itself (a cast that widens, say): what those read is
            stored in their stead.
    """
    found: dict[Value, str] = {}
    taken: Counter[str] = Counter()
    for op in graph.ops:
        if graph.is_constant(op) and not computed(op):
            continue
        for role, value in op.operands.items():
            inline = isinstance(value, Constant) and value.type.numel() == 1
            if graph.is_constant(value) and value not in found and not inline and not _is_computed(value, computed):
                name = f"{op.loc or op.name}.{role}"
                taken[name] += 1
                found[value] = name if taken[name] == 1 else f"{name}.{taken[name] - 1}"
    return [Stored(name, value) for value, name in found.items()]


def _is_computed(value: Value, computed: Callable[[Op], bool]) -> bool:
    return isinstance(value, Op) and computed(value)


def materialize(value: Value, tensors: Mapping[str, Array], release: Callable[[str], None] = lambda _: None) -> Array:
    """The bytes of one constant expression, each intermediate let go of after its last use.

    Args:
        tensors: each weight by its key; a view of a mapped file serves.
        release: told each key whose tensor has been read, so that its pages can leave memory; not of those that the
            result is, or may be, a view of: they are the caller's to release (``weights_of``).
    """
    order = ordered([value])
    left = Counter(v for op in order for v in op.operands.values())
    left[value] += 1
    arrays: dict[Value, Array] = {}
    for op in order:
        if isinstance(op, Weight):
            arrays[op] = tensors[op.key]
            continue
        if not isinstance(op, Result):
            with np.errstate(all="ignore"):
                made: Any = op.evaluate(*op.arguments(arrays))
            several = cast("tuple[Array, ...]", made if isinstance(made, tuple) else (made,))
            arrays.update((result, array) for result, array in zip(op.results, several, strict=True) if left[result])
        for operand in op.operands.values():
            left[operand] -= 1
            if not left[operand] and operand in arrays:
                held = arrays.pop(operand)
                if isinstance(operand, Weight) and not any(np.may_share_memory(held, a) for a in arrays.values()):
                    release(operand.key)
    return arrays[value]


def stream(
    stored: Iterable[Stored],
    tensors: Mapping[str, Array],
    *,
    threads: int = 2,
    release: Callable[[str], None] = lambda _: None,
) -> Iterator[tuple[Stored, Array]]:
    """Each constant with its bytes, in order; at most ``threads`` are held or under way at a time."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[Stored, Future[Array]]] = deque()
        for item in stored:
            waiting.append((item, pool.submit(materialize, item.value, tensors, release)))
            if len(waiting) >= threads:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()


def weights_of(value: Value) -> list[str]:
    """The keys of the weights that a constant expression reads."""
    return [op.key for op in ordered([value]) if isinstance(op, Weight)]
