"""Scratch memory: an offset for each buffer, so that buffers that live at one time lie apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from trtc.backend.cuda.steps import Buffer, Step
from trtc.expressions import evaluate

ALIGNMENT = 256
TRIES = 6               # of each order
MULTIPROCESSORS = 256   # more than any GPU has: workspaces grow with their number


@dataclass(frozen=True)
class Layout:
    """Where buffers lie in the scratch memory of a phase.

    Args:
        offsets: of each buffer.
        bytes: of all of it.
        lower_bound: the bytes of the buffers that live at one time, at most: no layout needs less.
    """

    offsets: Mapping[Buffer, int]
    bytes: int
    lower_bound: int


@dataclass(frozen=True, eq=False)
class Lifetime:
    """A buffer of some bytes, from the first step that writes it to the last that reads it."""

    buffer: Buffer
    bytes: int
    first: int
    last: int

    def meets(self, other: Lifetime) -> bool:
        """Whether they live at one time."""
        return self.first <= other.last and other.first <= self.last


def lifetimes(steps: Sequence[Step], extremes: Sequence[Mapping[str, int]]) -> list[Lifetime]:
    """The lifetime of every scratch buffer, with the most bytes that it takes at any of these sizes."""
    spans: dict[Buffer, tuple[int, int]] = {}
    for number, step in enumerate(steps):
        for buffer in step.buffers:
            if buffer.at == "scratch":
                spans[buffer] = spans.get(buffer, (number, number))[0], number
    known = [{**sizes, "multiprocessors": MULTIPROCESSORS} for sizes in extremes]
    most: dict[int | str, int] = {}
    for buffer in spans:
        if buffer.bytes not in most:
            greatest = max(evaluate(buffer.bytes, sizes) for sizes in known)
            most[buffer.bytes] = max(1, -(-greatest // ALIGNMENT)) * ALIGNMENT
    return [Lifetime(buffer, most[buffer.bytes], *span) for buffer, span in spans.items()]


ORDERS: tuple[Callable[[Lifetime], tuple[int, int]], ...] = (
    lambda a: (-a.bytes, a.first),
    lambda a: (-a.bytes * (a.last - a.first + 1), a.first),
    lambda a: (a.first, -a.bytes),
)


def layout(steps: Sequence[Step], extremes: Sequence[Mapping[str, int]]) -> Layout:
    """Offsets for all scratch buffers of these steps: each in turn into the gap that fits it best.

    Of several orders the best is taken, the greatest first or those that take most for longest, say; and those that
    stick out of what it gives come first in another try, as long as that is more than the lower bound.
    """
    alive = lifetimes(steps, extremes)
    bound = _most_at_once(alive)
    tries = (placed for key in ORDERS for placed in _tries(sorted(alive, key=key)))
    best: list[tuple[int, Lifetime]] = []
    for placed in tries:
        best = placed if not best or _end(placed) < _end(best) else best
        if _end(best) == bound:
            break
    return Layout({item.buffer: offset for offset, item in best}, _end(best), bound)


def _tries(order: list[Lifetime]) -> Iterator[list[tuple[int, Lifetime]]]:
    """Placements in an order, and in those that it leads to."""
    for _ in range(TRIES):
        yield (placed := _placed(order))
        outer = [item for offset, item in placed if offset + item.bytes == _end(placed)]
        order = [*outer, *(item for item in order if item not in outer)]


def _end(placed: Sequence[tuple[int, Lifetime]]) -> int:
    return max((offset + item.bytes for offset, item in placed), default=0)


def _placed(order: Sequence[Lifetime]) -> list[tuple[int, Lifetime]]:
    """Each with its offset, placed in this order."""
    placed: list[tuple[int, Lifetime]] = []
    for item in order:
        taken = sorted((offset, offset + other.bytes) for offset, other in placed if item.meets(other))
        placed.append((_gap(taken, item.bytes), item))
    return placed


def _gap(taken: list[tuple[int, int]], size: int) -> int:
    """The beginning of the smallest gap that has room; behind all if none has.

    >>> _gap([(0, 4), (6, 8), (11, 12)], 2), _gap([(0, 4)], 1), _gap([(1, 2)], 3)
    (4, 4, 2)
    """
    end, best = 0, (-1, 0)
    for low, high in taken:
        if low - end >= size and (best[0] < 0 or low - end < best[0]):
            best = low - end, end
        end = max(end, high)
    return best[1] if best[0] >= 0 else end


def _most_at_once(alive: Sequence[Lifetime]) -> int:
    changes: dict[int, int] = {}
    for item in alive:
        changes[item.first] = changes.get(item.first, 0) + item.bytes
        changes[item.last + 1] = changes.get(item.last + 1, 0) - item.bytes
    total = most = 0
    for number in sorted(changes):
        total += changes[number]
        most = max(most, total)
    return most
