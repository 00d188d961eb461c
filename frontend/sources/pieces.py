"""Tensors that files keep in pieces."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate

from trtc.frontend.sources.mapped import Entry


@dataclass(frozen=True)
class Pieces:
    """A tensor whose elements are those of some tensors of one axis, one after the other, in row-major order.

    Args:
        keys: of the source.
    """

    shape: tuple[int, ...]
    keys: tuple[str, ...]


class Flat:
    """Dense tensors as one row of elements, of which parts are cut.

    Args:
        entries: of one element type, one after the other.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries = [e for e in entries if math.prod(e.shape)]
        if any(e.strides is not None for e in self.entries) or len({e.dtype for e in self.entries}) > 1:
            raise ValueError("flat tensors must be dense and of one element type")
        self.ends = [0, *accumulate(math.prod(e.shape) for e in self.entries)]

    def __len__(self) -> int:
        return self.ends[-1]

    def cut(self, start: int, stop: int) -> Iterator[Entry]:
        """Elements ``start..stop``: a part of one entry, or of several."""
        if not 0 <= start <= stop <= len(self):
            raise ValueError(f"elements {start}..{stop} are asked for, but there are {len(self)}")
        n = bisect_right(self.ends, start) - 1
        while start < stop:
            entry, first, last = self.entries[n], self.ends[n], self.ends[n + 1]
            width, end = (entry.stop - entry.start) // (last - first), min(stop, last)
            at = entry.start + (start - first) * width
            yield replace(entry, shape=(end - start,), start=at, stop=at + (end - start) * width)
            start, n = end, n + 1


class Kept:
    """Entries of a source under construction, and which of its tensors are in pieces."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.pieces: dict[str, Pieces] = {}

    def put(self, key: str, shape: tuple[int, ...], parts: list[Entry]) -> None:
        """A tensor made of these parts, as it is where there is one, else under ``key/0``, ``key/1``, ..."""
        if len(parts) == 1:
            self.entries[key] = replace(parts[0], shape=shape)
            return
        keys = tuple(f"{key}/{n}" for n in range(len(parts)))
        self.entries.update(zip(keys, parts, strict=True))
        self.pieces[key] = Pieces(shape, keys)

    def take(self, before: str, other: Kept) -> None:
        """All that another one has, with something before its keys."""
        self.entries |= {f"{before}{key}": entry for key, entry in other.entries.items()}
        self.pieces |= {
            f"{before}{key}": Pieces(pieces.shape, tuple(f"{before}{part}" for part in pieces.keys))
            for key, pieces in other.pieces.items()
        }   # fmt: skip

    def alias(self, key: str, other: str) -> None:
        """The same tensor under another key, too, where it is there."""
        if other in self.pieces:
            self.pieces[key] = self.pieces[other]
        elif other in self.entries:
            self.entries[key] = self.entries[other]
