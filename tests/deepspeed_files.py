"""How ZeRO lays out parameters, as the published sources of DeepSpeed do it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

torch: Any = import_module("torch")


def flat(tensors: list[Any], align: int) -> Any:
    """One row of all elements, padded with what must not be read."""
    row = torch.cat([t.reshape(-1).float() for t in tensors])
    return torch.cat([row, torch.full((-len(row) % align,), torch.nan)])


def partitions(stage: int, groups: list[dict[str, Any]], ranks: int) -> list[list[Any]]:
    """Each rank's part of each group."""
    if stage < 3:
        rows = [flat(list(group.values()), 2 * ranks).chunk(ranks) for group in groups]
        return [[row[rank].clone() for row in rows] for rank in range(ranks)]
    cut = [[flat([t], ranks).chunk(ranks) for t in group.values()] for group in groups]
    return [[torch.cat([parts[rank] for parts in group]) for group in cut] for rank in range(ranks)]
