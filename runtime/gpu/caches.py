"""KV caches of a GPU: where they lie, how new rows are placed, and how they grow without a second buffer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Protocol

from trtc.runtime.gpu.memory import ALIGNMENT
from trtc.runtime.gpu.stream import Box, Stream

STEP = 64   # tokens: every capacity but the greatest is a multiple of it


def levels(capacity: int) -> list[int]:
    """The capacities that caches grow through to a greatest one: each at least twice the one before.

    >>> levels(1152)
    [64, 128, 256, 576, 1152]
    """
    found = [capacity]
    while (half := found[-1] // 2 // STEP * STEP) >= STEP:
        found.append(half)
    return found[::-1]


def slice_bytes(pitch: int, rows: int) -> int:
    """The bytes from one of several tensors of ``rows`` rows to the next: aligned, and a multiple of the pitch."""
    step = pitch * ALIGNMENT // gcd(pitch, ALIGNMENT)
    return -(-pitch * rows // step) * step


class Laid(Protocol):
    """The sizes that caches and new rows are laid out for: sequences, new tokens of each, tokens that caches hold."""

    @property
    def batch(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def capacity(self) -> int: ...


@dataclass(frozen=True)
class CacheGroup:
    """Caches of one row size, which lie behind one another: ``dtype[B, heads, M, head_size]`` each.

    Args:
        names: the engine's inputs.
        new: by the name of each cache, the engine's output of rows to append; empty where it updates in place.
        heads: of each.
        row: bytes of one token of one head.
    """

    names: tuple[str, ...]
    new: Mapping[str, str]
    heads: int
    row: int

    def bytes(self, batch: int, tokens: int) -> int:
        """The bytes of all of them for so many tokens a sequence."""
        return len(self.names) * self.each(batch, tokens)

    def each(self, batch: int, tokens: int) -> int:
        """The bytes from one cache (or one tensor of new rows) to the next."""
        return slice_bytes(tokens * self.row, batch * self.heads)

    def addresses(self, base: int, batch: int, tokens: int) -> Iterator[tuple[str, int]]:
        """Each cache's name and address, the first at ``base``."""
        return ((name, base + n * self.each(batch, tokens)) for n, name in enumerate(self.names))

    def place(
        self, stream: Stream, cache: int, new: int, sizes: Laid, past: Sequence[int], lengths: Sequence[int]
    ) -> None:
        """Append new rows, by one copy for each sequence, or one for all of one length.

        Args:
            cache, new: addresses of the first cache and of the first tensor of new rows.
            past, lengths: of each sequence, the tokens in its cache, and how many of the new ones are real.
        """
        to, of = sizes.capacity * self.row, sizes.tokens * self.row   # pitches
        slices = self.each(sizes.batch, sizes.capacity) // to, self.each(sizes.batch, sizes.tokens) // of
        places = list(zip(past, lengths, strict=True))
        together = len(places) if len(set(places)) == 1 else 1   # sequences of one copy
        for sequence in range(0, len(places), together):
            first, length = places[sequence]
            target = Box(cache + sequence * self.heads * to + first * self.row, to, slices[0])
            source = Box(new + sequence * self.heads * of, of, slices[1])
            if length:
                stream.copy_box(target, source, length * self.row, together * self.heads, len(self.names))

    def grow(self, stream: Stream, base: int, batch: int, have: int, want: int) -> None:
        """Lay the caches out anew for at least twice as many tokens, within the same memory.

        The last come first, in runs whose new place begins behind the old place of all that is yet to move.
        """
        old, new, rows = have * self.row, want * self.row, batch * self.heads
        before, after = self.each(batch, have), self.each(batch, want)
        for low, high in runs(len(self.names), before, after):
            target, source = Box(base + low * after, new, after // new), Box(base + low * before, old, before // old)
            stream.copy_box(target, source, old, rows, high - low)
        for low, high in runs(rows, old, new):   # of the first cache, which is where it was
            stream.copy_box(Box(base + low * new, new), Box(base + low * old, old), old, high - low)


def runs(count: int, before: int, after: int) -> Iterator[tuple[int, int]]:
    """Runs of pieces but the first, from the last: none is moved onto a piece of its own run or of a later one.

    >>> list(runs(9, 10, 20))
    [(5, 9), (3, 5), (2, 3), (1, 2)]

    Args:
        before, after: the bytes from piece to piece; after is at least twice as much.
    """
    high = count
    while high > 1:
        low = max(1, -(-high * before // after))
        yield low, high
        high = low
