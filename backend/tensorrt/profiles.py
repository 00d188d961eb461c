"""Optimisation profiles: one for prefill, one for decode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from trtc.ir.graph import Graph
from trtc.ir.types import Bounds, evaluate, names

Range: TypeAlias = tuple[int, int, int]   # the least, the most likely and the greatest value
TOKENS = "S"                              # the size that counts new tokens of each sequence


def profiles(bounds: Bounds) -> list[dict[str, Range]]:
    """The range of each symbolic size: of any number of new tokens, then of exactly one where that is apart.

    >>> profiles({"B": (1, 8), "S": (1, 64)})
    [{'B': (1, 4, 8), 'S': (1, 32, 64)}, {'B': (1, 4, 8), 'S': (1, 1, 1)}]
    """
    if not bounds:
        return []
    prefill = {name: (least, (least + most) // 2, most) for name, (least, most) in bounds.items()}
    least, most = bounds.get(TOKENS, (1, 1))
    return [prefill, {**prefill, TOKENS: (1, 1, 1)}] if least == 1 < most else [prefill]


def shapes(graph: Graph, ranges: Mapping[str, Range]) -> dict[str, tuple[tuple[int, ...], ...]]:
    """The least, likely and greatest shape of each input that has symbolic sizes."""
    points = [{name: values[i] for name, values in ranges.items()} for i in range(3)]
    return {
        op.key: tuple(tuple(evaluate(s, point) for s in op.shape) for point in points)
        for op in graph.inputs
        if names(op.shape)
    }


def add_profiles(builder: Any, config: Any, graph: Graph) -> None:
    """Add the profiles to a builder's config."""
    used = set[str]().union(*(names(op.shape) for op in graph.inputs))
    for ranges in profiles({name: pair for name, pair in graph.bounds.items() if name in used}):
        profile = builder.create_optimization_profile()
        for key, points in shapes(graph, ranges).items():
            profile.set_shape(key, *points)
        config.add_optimization_profile(profile)
