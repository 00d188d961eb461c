"""Tensors that files keep in boxes: each box is a tensor of its own, and they lie side by side."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

Sizes = tuple[int, ...]
MAX_CUTS = 64   # of boxes within boxes; a grid of N axes needs N


@dataclass(frozen=True)
class Tile:
    """A box of a tensor, and the tensor of the source that begins with it.

    Args:
        start, sizes: of the box, an index and a size an axis.
    """

    key: str
    start: Sizes
    sizes: Sizes

    def meets(self, start: Sizes, stop: Sizes) -> bool:
        """Whether the box has elements in another one."""
        every = zip(self.start, self.sizes, start, stop, strict=True)
        return all(at < last and first < at + size for at, size, first, last in every)

    def holds(self, start: Sizes, stop: Sizes) -> bool:
        """Whether another box lies within this one."""
        every = zip(self.start, self.sizes, start, stop, strict=True)
        return all(at <= first and last <= at + size for at, size, first, last in every)


@dataclass(frozen=True)
class Tiles:
    """A tensor in boxes."""

    shape: Sizes
    tiles: tuple[Tile, ...]

    @cached_property
    def _sorted(self) -> tuple[list[int], list[Tile], int]:
        """The tiles by where they start on the first axis, and the greatest size there."""
        tiles = sorted(self.tiles, key=lambda tile: tile.start[:1])
        return [t.start[0] for t in tiles if t.start], tiles, max((t.sizes[0] for t in tiles if t.sizes), default=0)

    def near(self, start: Sizes, stop: Sizes) -> tuple[Tile, ...]:
        """The tiles that may meet a box: there can be thousands, of all layers and experts."""
        starts, tiles, size = self._sorted
        if not starts:
            return self.tiles
        return tuple(tiles[bisect_right(starts, start[0] - size) : bisect_left(starts, stop[0])])


@dataclass(frozen=True)
class Joint:
    """Boxes that are joined along an axis."""

    axis: int
    parts: tuple[Joint | Cut, ...]


@dataclass(frozen=True)
class Cut:
    """A box within a tile; ``start`` counts from the tile's own."""

    tile: Tile
    start: Sizes
    sizes: Sizes


def plan(tiles: tuple[Tile, ...], start: Sizes, stop: Sizes, depth: int = 0) -> Joint | Cut:
    """How the box ``start..stop`` is made of tiles.

    Errors:
        ValueError: tiles are missing there, or overlap.
    """
    within = tuple(tile for tile in tiles if tile.meets(start, stop))
    if len(within) == 1 and within[0].holds(start, stop):
        (tile,) = within
        first = tuple(at - own for at, own in zip(start, tile.start, strict=True))
        return Cut(tile, first, tuple(last - at for at, last in zip(start, stop, strict=True)))
    for axis in range(len(start)):
        marks = [start[axis], *_between(within, axis, start[axis], stop[axis]), stop[axis]]
        if len(marks) > 2 and depth < MAX_CUTS:
            return Joint(axis, tuple(
                plan(within, _put(start, axis, low), _put(stop, axis, high), depth + 1) for low, high in pairwise(marks)
            ))   # fmt: skip
    raise ValueError(f"its parts do not make up {list(start)}..{list(stop)}")


def _between(tiles: tuple[Tile, ...], axis: int, low: int, high: int) -> Iterator[int]:
    """Where an axis can be cut without cutting a tile."""
    spans = sorted((max(low, t.start[axis]), min(high, t.start[axis] + t.sizes[axis])) for t in tiles)
    end = low
    for first, last in spans:
        if low < first and end <= first and end != low:
            yield first
        end = max(end, last)


def _put(sizes: Sizes, axis: int, value: int) -> Sizes:
    return (*sizes[:axis], value, *sizes[axis + 1 :])
