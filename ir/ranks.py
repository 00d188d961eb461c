"""Graphs of several ranks, evaluated together."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from trtc.ir.errors import IRError
from trtc.ir.op import Array
from trtc.ir.ops.collective import Group, exchanging

R = TypeVar("R")


class _Meeting:
    """Where ranks wait for one another: for each group, what was given at its first collective, its second, ..."""

    def __init__(self) -> None:
        self.given: dict[tuple[Group, int], dict[int, Array]] = {}
        self.calls: Counter[tuple[int, Group]] = Counter()
        self.changed = threading.Condition()
        self.left: set[int] = set()   # ranks that wait for nobody any more

    def exchange(self, rank: int, group: Group, x: Array) -> tuple[list[Array], int]:
        if rank not in group:
            raise IRError(f"rank {rank} runs a collective of group {list(group)}, but is not in it")
        with self.changed:
            here = self.given.setdefault((group, self.calls[rank, group]), {})
            self.calls[rank, group] += 1
            here[rank] = x
            self.changed.notify_all()
            self.changed.wait_for(lambda: len(here) == len(group) or bool(self.left & set(group) - set(here)))
        if missing := [r for r in group if r not in here]:
            raise IRError(f"rank {rank} waits for rank {missing[0]}, which runs no such collective")
        return [here[r] for r in group], group.index(rank)

    def leave(self, rank: int) -> None:
        with self.changed:
            self.left.add(rank)
            self.changed.notify_all()


def together(runs: Sequence[Callable[[], R]]) -> list[R]:
    """What the runs of ranks 0, 1, ... give: each evaluates its own graph, and they meet at collectives.

    Errors:
        IRError: a rank waits for one that does not come, or is not in the group of its collective.
    """
    meeting = _Meeting()

    def run(rank: int) -> R:
        try:
            with exchanging(partial(meeting.exchange, rank)):
                return runs[rank]()
        finally:
            meeting.leave(rank)

    with ThreadPoolExecutor(len(runs)) as pool:
        done = [pool.submit(run, rank) for rank in range(len(runs))]
    return [each.result() for each in done]
