"""Scratch memory: an offset for each buffer, so that buffers that live at one time lie apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trtc.backend.cuda.steps import Buffer, Step
from trtc.expressions import evaluate

ALIGNMENT = 256
TRIES = 16
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


def layout(steps: Sequence[Step], extremes: Sequence[Mapping[str, int]]) -> Layout:
    """Offsets for all scratch buffers of these steps: the greatest first, each into the gap that fits it best.

    As long as that needs more than the lower bound, those that stick out are placed first in another try.
    """
    alive = lifetimes(steps, extremes)
    bound = _most_at_once(alive)
    order = sorted(alive, key=lambda a: (-a.bytes, a.first))
    best: dict[Buffer, int] = {}
    least = -1
    for _ in range(TRIES):
        placed = _placed(order)
        end = max((offset + item.bytes for offset, item in placed), default=0)
        if least < 0 or end < least:
            best, least = {item.buffer: offset for offset, item in placed}, end
        if least == bound:
            break
        outer = [item for offset, item in placed if offset + item.bytes == end]
        order = [*outer, *(item for item in order if item not in outer)]
    return Layout(best, least, bound)


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
