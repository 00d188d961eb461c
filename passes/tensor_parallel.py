"""Tensor parallelism: along which axis the ranks divide each weight, by its role, and which part is whose.

Source: Shoeybi et al., 2019, arXiv:1909.08053: projections into heads and into the feed-forward block are divided by
their outputs, those that follow by their inputs.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, TypeAlias

Division: TypeAlias = Literal["outputs", "inputs"]

DIVISIONS: dict[str, Division] = {
    "q": "outputs", "k": "outputs", "v": "outputs", "q_layernorm": "outputs", "k_layernorm": "outputs",
    "q_b": "outputs", "kv_b": "outputs", "dense": "inputs", "fc": "outputs", "gate": "outputs", "proj": "inputs",
    "lm_head": "outputs",
}   # fmt: skip
"""By the last name of a module: ``transformer.layers.0.attention.q``, say. Ranks have all of every other weight."""
QUERY = ("q", "q_layernorm", "q_b", "kv_b", "dense")
"""What belongs to heads of queries."""
EXPERTS = ("fc", "gate", "proj")
"""Modules whose weights, where they have an axis more, are those of all experts."""
KEY_VALUE = ("k", "v", "k_layernorm")
"""What belongs to heads of keys and values, of which there may be fewer than ranks: several ranks have the same one."""


def divided_axis(role: str, shape: tuple[int, ...], head_size: int) -> int | None:
    """The axis of a weight (out, in) or (experts, out, in), or of a bias, that ranks divide; None where all have all.

    A bias of what is divided by inputs is added once, after the sum over ranks. A norm of q or k is divided where it
    has a weight for each head.
    """
    module, _, kind = role.rpartition(".")
    name = module.rpartition(".")[2]
    division = DIVISIONS.get(name)
    if division is None or (division == "inputs" and kind == "bias"):
        return None
    if name.endswith("layernorm") and shape == (head_size,):
        return None
    return max(len(shape) - 2, 0) if division == "outputs" and kind == "weight" else len(shape) - 1


def is_of_experts(role: str, shape: tuple[int, ...]) -> bool:
    """Whether a weight is those of all experts, [E, out, in], which may be spread over ranks whole."""
    module, _, kind = role.rpartition(".")
    return kind == "weight" and len(shape) == 3 and module.rpartition(".")[2] in EXPERTS


def share(size: int, units: int, rank: int, ranks: int) -> tuple[int, int]:
    """Where a rank's part of an axis begins, and its length; the caller has checked that it can be divided.

    Args:
        size: of the axis.
        units: into how many it can be divided: heads, or single elements. Where there are fewer than ranks, each is
            had by as many ranks in a row.
    """
    length = size // min(units, ranks)
    return rank * min(units, ranks) // ranks * length, length


def is_divisible(units: int, ranks: int, *, repeats: bool) -> bool:
    """Whether ranks can have equal parts; ``repeats``: or the same ones."""
    return units % ranks == 0 or (repeats and ranks % units == 0)


def stage_layers(layers: int, stages: int) -> list[range]:
    """The layers of each pipeline stage; the first ones have one more where it does not come out even."""
    few, more = divmod(layers, stages)
    starts = [n * few + min(n, more) for n in range(stages + 1)]
    return [range(a, b) for a, b in pairwise(starts)]
