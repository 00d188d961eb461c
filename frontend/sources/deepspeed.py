"""The folder of one step of a DeepSpeed run: weights cut out of the flat partitions of its optimizer.

ZeRO 1 and 2 lay the parameters of a group one after the other and cut the row among the ranks; ZeRO 3 cuts each
parameter among the ranks, and lays each rank's parts one after the other. What lies there is the optimizer's own copy
in f32; the model's 16-bit weights are read where there is no such copy.

Source: deepspeed/utils/zero_to_fp32.py and deepspeed/checkpoint/ds_to_universal.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from trtc.errors import TrtcError
from trtc.frontend.sources.deepspeed_rules import Rules, read_rules
from trtc.frontend.sources.mapped import Entry
from trtc.frontend.sources.pieces import Flat, Kept, Pieces
from trtc.frontend.sources.torch_zip import TorchSource, read_torch

MODEL = re.compile(r"(?:zero_pp_rank_(\d{1,6})_)?mp_rank_(\d{2,6})_model_states\.pt")
OPTIMIZER = re.compile(r"(?:bf16_)?zero_pp_rank_(\d{1,6})_mp_rank_(\d{2,6})_optim_states\.pt")
FLAT = ("fp32_flat_groups", "single_partition_of_fp32_groups")   # of ZeRO 3; of 1 and 2
CONSUMED = "the partitions hold {have} elements for group {n}, but its parameters take {want}"
PASSED_OVER = {("argparse", "Namespace"), ("torch", "device"), ("collections", "defaultdict"), ("_codecs", "encode")}
MODULES = ("deepspeed.", "numpy.", "megatron.")
T = TypeVar("T")


def passed_over(module: str, name: str) -> bool:
    """What runs keep beside the weights: their options, states of optimizers and of random numbers."""
    return (module, name) in PASSED_OVER or module == "numpy" or module.startswith(MODULES)


class DeepSpeedSource(TorchSource):
    """The parameters of a model by the names that it had in training.

    Args:
        folder: of one step: ``global_step1000``, say, or a universal checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, [])
        self.files: list[str] = []
        self.kept = Kept()
        self.ranks: list[Kept] = []
        self.rules: Rules | None = None
        try:
            read = self._universal if (folder / "zero").is_dir() else self._ranks
            read()
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
            raise TrtcError(f"{folder} cannot be read as a checkpoint of DeepSpeed: {error}") from None
        self.entries = self.kept.entries

    @property
    def pieces(self) -> dict[str, Pieces]:
        return self.kept.pieces

    @property
    def names(self) -> set[str]:
        """Of the parameters, each once."""
        first = self.ranks[0] if self.ranks else self.kept
        return {*first.entries, *first.pieces}

    def _universal(self) -> None:
        """A folder a parameter, whose fp32.pt has all of it; ZeRO 3's has lost its shape, which others know."""
        ranks = _by_rank(self.folder, MODEL)
        states = _read(ranks[0][0]) if ranks else {}
        shapes = {k: v for group in _list(states.get("param_shapes") or []) for k, v in _dict(group).items()}
        for file in sorted(self.folder.glob("zero/*/fp32.pt")):
            self.files.append(str(file.relative_to(self.folder)))
            value = read_torch(file, inert=passed_over)
            entry = value if isinstance(value, Entry) else _tensor(_dict(value)["param"])
            name = file.parent.name
            flat = Flat([entry])
            shape = _shape(shapes.get(name, entry.shape))
            whole = shape if math.prod(shape) == len(flat) else entry.shape
            self.kept.put(name, whole, list(flat.cut(0, len(flat))))
        self._others(states, [])

    def _ranks(self) -> None:
        models, optimizers = _by_rank(self.folder, MODEL), _by_rank(self.folder, OPTIMIZER)
        if not models:
            raise TrtcError(f"{self.folder} holds no *mp_rank_00_model_states.pt", "help: fetch the weights, too")
        if optimizers and len(optimizers) != len(models):
            have = f"the optimizer states of {len(optimizers)} model-parallel ranks, but the model's of {len(models)}"
            raise TrtcError(f"{self.folder} holds {have}", "help: fetch the others, too")
        for n, own in enumerate(models):
            self._rank(own, optimizers[n] if optimizers else [])
            if len(models) > 1:
                self.ranks.append(self.kept)
                self.kept = Kept()
        for n, kept in enumerate(self.ranks):
            self.kept.take(f"mp{n}/", kept)

    def _rank(self, models: list[Path], optimizers: list[Path]) -> None:
        """Keep what one model-parallel rank has."""
        self.files += [file.name for file in (*models, *optimizers)]
        states = [_read(file) for file in models]
        self.rules = self.rules or read_rules(states[0].get("universal_checkpoint_info"))
        if optimizers:
            every = [_dict(_read(file)["optimizer_state_dict"]) for file in optimizers]
            self._partitions(every, [_dict(group) for group in _list(states[0]["param_shapes"])])
        self._others(states[0], states)

    def _partitions(self, optimizers: list[dict[str, Any]], shapes: list[dict[str, Any]]) -> None:
        count: Any = optimizers[0]["partition_count"]
        count = max(_list(count)) if isinstance(count, list) else count
        if count != len(optimizers):
            have = f"{self.folder} holds the optimizer states of {len(optimizers)} ranks"
            raise TrtcError(f"{have}, but the run had {count}", "help: fetch the others, too")
        third = FLAT[0] in optimizers[0]
        groups = [[_tensor(t) for t in o[FLAT[0] if third else FLAT[1]]] for o in optimizers]
        if third:
            self._third([Flat(own) for own in groups], {k: v for group in shapes for k, v in group.items()})
            return
        paddings: Any = optimizers[0].get("param_alignment_paddings") or [[0] * len(group) for group in shapes]
        if any(len(own) != len(shapes) for own in (*groups, paddings)):
            raise ValueError(f"its ranks have other groups than the {len(shapes)} of the parameters' shapes")
        for n, group in enumerate(shapes):
            self._first(n, Flat(own[n] for own in groups), group, _shape(tuple(paddings[n])), 2 * len(groups))

    def _first(self, n: int, flat: Flat, shapes: dict[str, Any], paddings: tuple[int, ...], align: int) -> None:
        """One group of ZeRO 1 and 2: the ranks' partitions one after the other; their ends are padded."""
        at = 0
        for (name, stated), padding in zip(shapes.items(), paddings, strict=True):
            shape = _shape(stated)
            self.kept.put(name, shape, list(flat.cut(at, at + math.prod(shape))))
            at += math.prod(shape) + padding
        if -(-at // align) != -(-len(flat) // align):
            raise ValueError(CONSUMED.format(have=len(flat), n=n, want=at))

    def _third(self, flats: list[Flat], shapes: dict[str, Any]) -> None:
        """All groups of ZeRO 3: rank r has elements ``r * part..(r + 1) * part`` of each parameter, the last padded."""
        at = 0
        for name, stated in shapes.items():
            shape = _shape(stated)
            count = math.prod(shape)
            part = -(-count // len(flats))
            sizes = [max(0, min(part, count - rank * part)) for rank in range(len(flats))]
            cuts = [flat.cut(at, at + size) for flat, size in zip(flats, sizes, strict=True)]
            self.kept.put(name, shape, [entry for cut in cuts for entry in cut])
            at += part
        if any(at != len(flat) for flat in flats):
            raise ValueError(CONSUMED.format(have=len(flats[0]), n=0, want=at))

    def _others(self, state: dict[str, Any], ranks: list[dict[str, Any]]) -> None:
        """What was not trained: frozen parameters, buffers; and second names of parameters."""
        for name, stated in _dict(state.get("frozen_param_shapes") or {}).items():
            flat = Flat(_tensor(_dict(rank["frozen_param_fragments"])[name]) for rank in ranks)
            shape = _shape(stated)
            self.kept.put(name, shape, list(flat.cut(0, math.prod(shape))))
        for name, value in _dict(state.get("module") or {}).items():
            known = name in self.kept.entries or name in self.kept.pieces
            if isinstance(value, Entry) and math.prod(value.shape) and not known:
                self.kept.entries[name] = value
        for name, other in _dict(state.get("shared_params") or {}).items():
            self.kept.alias(name, other)


def _read(file: Path) -> dict[str, Any]:
    return _dict(read_torch(file, inert=passed_over))


def _by_rank(folder: Path, pattern: re.Pattern[str]) -> list[list[Path]]:
    """For each model-parallel rank the files of its data-parallel ranks, by number."""
    found: dict[int, dict[int, Path]] = {}
    for file in folder.iterdir():
        if match := pattern.fullmatch(file.name):
            found.setdefault(int(match[2]), {})[int(match[1] or 0)] = file
    for own in _in_order(found, folder, lambda own: next(iter(own.values()))):
        _in_order(own, folder, lambda file: file)
    return [[own[rank] for rank in sorted(own)] for _, own in sorted(found.items())]


def _in_order(found: dict[int, T], folder: Path, name: Callable[[T], Path]) -> list[T]:
    for rank in range(len(found)):
        if rank not in found:
            known = name(found[max(found)]).name
            raise TrtcError(f"the file of rank {rank} is missing from {folder}, but {known} is there")
    return list(found.values())


def _dict(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in cast("dict[Any, Any]", value)):
        raise TypeError("something else stands where names and values must be")
    return cast("dict[str, Any]", value)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"a {type(value).__name__} stands where a list must be")
    return cast("list[Any]", value)


def _tensor(value: Any) -> Entry:
    if not isinstance(value, Entry):
        raise TypeError(f"a {type(value).__name__} stands where a tensor must be")
    return value


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple) or not all(type(n) is int and 0 <= n < 1 << 48 for n in cast("tuple[Any]", value)):
        raise TypeError("a shape must be of whole numbers")
    return cast("tuple[int, ...]", value)
