"""Optimisation profiles: one or more for prefill, one for decode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from trtc.backend.tensorrt.options import Options
from trtc.ir.errors import IRError
from trtc.ir.graph import Graph
from trtc.ir.types import Bounds, evaluate, names

Range: TypeAlias = tuple[int, int, int]   # the least, the most likely and the greatest value
BATCH, TOKENS, PACKED = "B", "S", "T"     # the sizes that count sequences, new tokens of each, and packed ones of all
FEWEST = 16                               # new tokens of a sequence that no range of their own ends below
RATIO = 4                                 # between the ends of ranges


def profiles(
    bounds: Bounds, *, max_num_tokens: int = 0, opt_num_tokens: int = 0, several: bool = False
) -> list[dict[str, Range]]:
    """The range of each symbolic size: of any number of new tokens, then of exactly one where that is apart.

    >>> profiles({"B": (1, 8), "S": (1, 64)})
    [{'B': (1, 4, 8), 'S': (1, 32, 64)}, {'B': (1, 4, 8), 'S': (1, 1, 1)}]
    >>> profiles({"B": (1, 8), "T": (1, 512)})
    [{'B': (1, 4, 8), 'T': (1, 256, 512)}, {'B': (1, 4, 8), 'T': (1, 4, 8)}]

    Args:
        max_num_tokens: bounds B * S in every profile (those of longer prompts take fewer sequences), or T; 0: no limit.
        opt_num_tokens: the most likely B * S, or T of prefill; 0: half of each range.
        several: a profile for each of several ranges of S, or of T.
    Errors:
        IRError: max_num_tokens is less than one token of each sequence, or than opt_num_tokens.
    """
    if not bounds:
        return []
    (few, batch), (least, most) = bounds.get(BATCH, (1, 1)), bounds.get(TOKENS, (1, 1))
    whole = bounds[PACKED][1] if PACKED in bounds else batch * most
    limit = min(max_num_tokens or whole, whole)
    if limit < batch:
        raise IRError(f"max_num_tokens is {limit}, but must be at least max_batch_size, {batch}")
    if opt_num_tokens > limit:
        raise IRError(f"opt_num_tokens is {opt_num_tokens}, but must not exceed {limit}, the most tokens of a batch")
    if PACKED in bounds:
        return _packed(bounds, limit, opt_num_tokens, several)
    boxes = list(_boxes(batch, least, most, limit, several)) or [(batch, (least, most))]
    if least == 1 < most:
        boxes = [box for box in boxes if box[1] != (1, 1)] + [(batch, (1, 1))]
    rest = {name: _likely(*pair) for name, pair in bounds.items()}
    return [rest | _box(bounds, (few, max(few, b)), span, opt_num_tokens) for b, span in boxes]


def _packed(bounds: Bounds, most: int, likely: int, several: bool) -> list[dict[str, Range]]:
    """Profiles of packed tokens: of any number of them, then of no more than there are sequences."""
    few, batch = bounds.get(BATCH, (1, 1))
    ends = [most, *_divided(most, several)]
    spans = [(below + 1 if several else few, end) for end, below in zip(ends, [*ends[1:], few - 1], strict=True)]
    found = [_likely(least, end) for least, end in spans if end > batch]
    if likely:
        found = [(least, _within(likely, least, end), end) for least, _, end in found]
    rest = {name: _likely(*pair) for name, pair in bounds.items()}
    return [rest | {PACKED: tokens} for tokens in (*found, _likely(few, batch))]


def _divided(most: int, several: bool) -> Iterator[int]:
    """Where further ranges of new tokens end, from the greatest."""
    end = most // RATIO
    while several and end >= FEWEST:
        yield end
        end //= RATIO


def _boxes(batch: int, least: int, most: int, limit: int, several: bool) -> Iterator[tuple[int, tuple[int, int]]]:
    """The greatest batch, and the span of S, of each profile of prefill, from the longest."""
    most = min(most, limit)
    full = min(most, limit // batch)   # new tokens of each sequence of the greatest batch
    ordered = sorted((e for e in {most, full, *_divided(most, several)} if e >= least), reverse=True)
    for n, end in enumerate(ordered):
        below = ordered[n + 1] if n + 1 < len(ordered) else 0
        first = max(least, below + 1) if several else least
        yield min(batch, max(1, limit // end)), (first, end)


def _box(bounds: Bounds, batch: tuple[int, int], span: tuple[int, int], likely: int) -> dict[str, Range]:
    """The ranges of B and S in one profile, as far as there are such sizes."""
    b, s = _likely(*batch), _likely(*span)
    if likely:
        tokens = _within(-(-likely // b[1]), *span)
        sequences = _within(likely // tokens, *batch)
        b, s = (batch[0], sequences, batch[1]), (span[0], tokens, span[1])
    return {name: ranges for name, ranges in ((BATCH, b), (TOKENS, s)) if name in bounds}


def _likely(least: int, most: int) -> Range:
    return least, (least + most) // 2, most


def _within(number: int, least: int, most: int) -> int:
    return min(max(number, least), most)


def shapes(graph: Graph, ranges: Mapping[str, Range]) -> dict[str, tuple[tuple[int, ...], ...]]:
    """The least, likely and greatest shape of each input that has symbolic sizes."""
    points = [{name: values[i] for name, values in ranges.items()} for i in range(3)]
    return {
        op.key: tuple(tuple(evaluate(s, point) for s in op.shape) for point in points)
        for op in graph.inputs
        if names(op.shape)
    }


def graph_profiles(graph: Graph, **options: Any) -> list[dict[str, Range]]:
    """The profiles of a graph, over the sizes that its inputs have.

    Args: as of `profiles`.
    """
    used = set[str]().union(*(names(op.shape) for op in graph.inputs))
    return profiles({name: pair for name, pair in graph.bounds.items() if name in used}, **options)


def plan_profiles(graph: Graph, options: Options) -> list[dict[str, Range]]:
    """The optimisation profiles that the plan of a graph gets, in order."""
    return graph_profiles(
        graph, max_num_tokens=options.max_num_tokens, opt_num_tokens=options.opt_num_tokens,
        several=options.multiple_profiles,
    )   # fmt: skip


def add_profiles(builder: Any, config: Any, graph: Graph, found: Sequence[Mapping[str, Range]] = ()) -> None:
    """Add these profiles, or else those that the graph has without options, to a builder's config."""
    for ranges in found or graph_profiles(graph):
        profile = builder.create_optimization_profile()
        for key, points in shapes(graph, ranges).items():
            profile.set_shape(key, *points)
        config.add_optimization_profile(profile)
