"""NeMo's archives, or the folders they were unpacked to: the config, and the tensors of each model-parallel rank.

Source: nemo/core/connectors/save_restore_connector.py, nemo/utils/model_utils.py (inject_model_parallel_rank).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from trtc.errors import TrtcError
from trtc.frontend.sources.deepspeed import passed_over
from trtc.frontend.sources.mapped import Entry
from trtc.frontend.sources.tar import Member, read_tar
from trtc.frontend.sources.torch_zip import TorchSource, read_torch

yaml: Any = import_module("yaml")

CONFIG, WEIGHTS = "model_config.yaml", "model_weights.ckpt"
RANKS = re.compile(r"(?:(?:mp_rank_(\d{2,6})|tp_rank_(\d{2,6})(?:_pp_rank_(\d{3,6}))?)/)?model_weights\.ckpt")
MAX_CONFIG, MAX_VALUES = 1 << 20, 1 << 18   # bytes, values


class NemoSource(TorchSource):
    """The tensors of the files of ranks; those of a rank are under ``tp0_pp0/``, and so on.

    Args:
        path: of the archive, or of a folder of what was in it.
        members: what it holds.
    """

    def __init__(self, path: Path, members: Mapping[str, Member]) -> None:
        super().__init__(path, [])
        self.files: list[str] = []
        ranks = {_rank(match): members[name] for name in members if (match := RANKS.fullmatch(name))}
        if not ranks:
            raise TrtcError(f"{path} holds no {WEIGHTS}", "help: fetch the weights, too")
        self.tensor_parallel, self.stages = (1 + max(rank[axis] for rank in ranks) for axis in (0, 1))
        for stage in range(self.stages):
            for rank in range(self.tensor_parallel):
                if (rank, stage) not in ranks:
                    raise TrtcError(f"{path} lacks the file of tensor-parallel rank {rank} in stage {stage}")
                self._read(f"tp{rank}_pp{stage}", ranks[rank, stage])

    def _read(self, name: str, member: Member) -> None:
        self.files.append(name)
        value = read_torch(member.file, member.start, member.size, inert=passed_over)
        if not isinstance(value, dict):
            raise TrtcError(f"{member.name} of {name} holds no dict of tensors")
        every = cast("dict[Any, Any]", value).items()
        self.entries.update((f"{name}/{key}", entry) for key, entry in every if isinstance(entry, Entry))


def members_of(path: Path) -> dict[str, Member]:
    """The files of an archive, or of a folder, by their paths in it."""
    if path.is_file():
        return read_tar(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {f.relative_to(path).as_posix(): Member(f.name, f, 0, f.stat().st_size) for f in files}


def read_yaml(members: Mapping[str, Member], name: str, path: Path) -> dict[str, Any]:
    """A config, as JSON has values."""
    if name not in members:
        raise TrtcError(f"{name} is missing from {path}")
    text = members[name].read(MAX_CONFIG)
    try:
        value: Any = yaml.safe_load(text)
        _count(value, {})
        value = json.loads(json.dumps(value, default=str))
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise TrtcError(f"{name} is no YAML: {' '.join(str(error).split()):.200}") from None
    except RecursionError:
        raise TrtcError(f"{name} is nested too deeply to be read") from None
    if not isinstance(value, dict):
        raise TrtcError(f"{name} must hold keys and values")
    return cast("dict[str, Any]", value)


def _count(value: Any, known: dict[int, int]) -> int:
    """How many values there are, each written out: a few aliases of aliases would be more than any memory holds.

    Args:
        known: the counts of lists and dicts, by identity; 0 while one is counted.
    """
    if not isinstance(value, dict | list):
        return 1
    if id(cast("object", value)) not in known:
        known[id(cast("object", value))] = 0
        inner = cast("list[Any]", value if isinstance(value, list) else [*cast("dict[Any, Any]", value).values()])
        known[id(cast("object", value))] = 1 + sum(_count(one, known) for one in inner)
    count = known[id(cast("object", value))]
    if not 0 < count <= MAX_VALUES:
        raise ValueError(f"it has more than {MAX_VALUES} values, or one that holds itself")
    return count


def _rank(match: re.Match[str]) -> tuple[int, int]:
    """The tensor-parallel rank and the pipeline stage."""
    return int(match[1] or match[2] or 0), int(match[3] or 0)
