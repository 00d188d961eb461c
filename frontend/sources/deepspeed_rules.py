"""How model-parallel ranks of DeepSpeed split parameters, as their model states say it.

Source: deepspeed/checkpoint/constants.py and ds_to_universal.py (merge_tp_slices): ``universal_checkpoint_info`` has
lists of patterns, each for names of parameters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast


@dataclass(frozen=True)
class Parts:
    """Several projections in one parameter, one after the other in each rank's part.

    Args:
        axis: along which they lie, and are split.
        widths: for each of them its size on every rank, or its whole size where all ranks have as much.
    """

    axis: int
    widths: tuple[tuple[int, ...] | int, ...]

    def of_rank(self, rank: int, ranks: int) -> list[int]:
        """The size of each on a rank."""
        return [width // ranks if isinstance(width, int) else width[rank] for width in self.widths]


Join = Literal["first", "mean", "rows", "columns", "halves"] | Parts
LISTS: dict[str, Join] = {
    "tp_replicated_parameter_patterns": "first", "parameter_to_average_patterns": "mean",
    "parameter_with_row_parallelism_patterns": "columns", "parameter_with_2_sub_params_cat_dim_0": "halves",
}   # fmt: skip
"""Each list, and how what it names is joined; the rest, with the vocabulary, is joined by rows."""
OTHERS = ("autotp_unsupported_parameter_patterns", "expert_parameter_patterns")
"""What splits parameters in ways that are not known here."""
SUBS, WIDTHS = "parameter_with_sub_params", "sub_param_shard_widths"
VOCABULARY = "vocabulary_parameter_patterns"
SIMPLE = re.compile(r"(?:[\w^$/,:-]|\\[.dw_-]|\\[dw][+*]|\.[+*]?|\[[\w-]+\][+*]?|[()|](?![+*?{]))*")
MAX_PATTERN, MAX_REPEATS, MAX_PATTERNS = 256, 3, 1 << 16   # lest a search takes forever


@dataclass(frozen=True)
class Rules:
    """Patterns with how what they name is joined, and those of the vocabulary's parameters."""

    joins: tuple[tuple[re.Pattern[str], Join], ...]
    vocabulary: tuple[re.Pattern[str], ...]

    def join(self, name: str) -> Join:
        """How the ranks' parts of a parameter are joined."""
        found: list[Join] = [join for pattern, join in self.joins if pattern.match(name)]
        return found[0] if found else "rows"

    def padded(self, name: str) -> bool:
        """Whether a parameter has rows of no word at its end."""
        return any(pattern.match(name) for pattern in self.vocabulary)


def read_rules(stated: Any) -> Rules | None:
    """What ``universal_checkpoint_info`` says; None where it is not there.

    Errors:
        ValueError, TypeError: it is none, or asks for a way that is not known.
    """
    if not isinstance(stated, dict) or not stated:
        return None
    info = cast("Mapping[str, Any]", stated)
    for key in OTHERS:
        if info.get(key):
            raise ValueError(f"universal_checkpoint_info has {key}, a way to split parameters that is not supported")
    joins = _subs(info)
    for key, join in LISTS.items():
        for pattern in _patterns(info, key):
            joins.append((pattern, join))
    return Rules(tuple(joins), _patterns(info, VOCABULARY))


def _subs(info: Mapping[str, Any]) -> list[tuple[re.Pattern[str], Join]]:
    """The parameters of several projections: each with the size of each, by rank where ranks differ."""
    made: list[tuple[re.Pattern[str], Join]] = []
    by_rank = cast("dict[str, Any]", info.get(WIDTHS) or {})
    for entry in cast("list[Any]", info.get(SUBS) or []):
        axis, shape = entry["partition_dim"], entry["shape"]
        if axis not in (0, 1) or axis >= len(shape):
            raise ValueError(f"{SUBS} has parts along axis {axis}, but must have them along 0 or 1")
        for text in cast("list[Any]", entry["patterns"]):
            widths = cast("list[Any]", by_rank.get(text, shape[axis]))
            made.append((_compiled(text), Parts(axis, tuple(map(_width, widths)))))
    return made


def _width(value: Any) -> tuple[int, ...] | int:
    """A projection's size on each rank, or in all."""
    every = cast("list[Any]", value if isinstance(value, list) else [value])
    if not all(type(size) is int and 0 <= size < 1 << 48 for size in every):
        raise TypeError(f"{SUBS} must have the sizes of the parts")
    return tuple(every) if isinstance(value, list) else every[0]


def _patterns(info: Mapping[str, Any], key: str) -> tuple[re.Pattern[str], ...]:
    value: Any = info.get(key) or []
    texts: list[Any] = cast("list[Any]", value) if isinstance(value, list) else [None]
    if not all(isinstance(text, str) for text in texts) or len(texts) > MAX_PATTERNS:
        raise TypeError(f"{key} must be a list of patterns")
    return tuple(map(_compiled, texts))


def _compiled(text: str) -> re.Pattern[str]:
    """A pattern; an error where it is not so simple that it is quickly matched."""
    repeats = len(re.findall(r"[+*]", text))
    if len(text) > MAX_PATTERN or repeats > MAX_REPEATS or not SIMPLE.fullmatch(text):
        raise ValueError(f"{text:.60} is no pattern of names of parameters")
    try:
        return re.compile(text)
    except re.error as error:
        raise ValueError(f"{text:.60} is no pattern of names of parameters: {error}") from None
