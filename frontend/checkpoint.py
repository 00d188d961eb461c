"""Checkpoints: what every source of models comes to, and which source a directory is of."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from trtc.errors import TrtcError
from trtc.frontend.config import DecoderConfig, Keys
from trtc.frontend.decoder import Limits, build_decoder
from trtc.frontend.sources.mapped import MappedSource
from trtc.frontend.sources.tar import Member
from trtc.frontend.sources.written import Written
from trtc.frontend.weights import Expression, Weights
from trtc.ir.errors import nearest
from trtc.ir.graph import Graph
from trtc.ir.types import DType, bf16, f16, f32

DTYPES = {"float32": f32, "float16": f16, "bfloat16": bf16}
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
)   # fmt: skip


class Facts(Protocol):
    """What an engine says of its model, whatever the model came from; `DecoderConfig` says it, too."""

    @property
    def architecture(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def max_position_embeddings(self) -> int: ...
    @property
    def learned_positions(self) -> bool: ...


class Compilable(Protocol):
    """What every source of models comes to: a graph, the tensors that it reads, and what lies beside them."""

    @property
    def folder(self) -> Path: ...
    @property
    def format(self) -> str: ...
    @property
    def raw(self) -> dict[str, Any]: ...
    @property
    def config(self) -> Facts: ...
    @property
    def source(self) -> MappedSource: ...
    @property
    def dtype(self) -> str: ...
    @property
    def tokenizer_files(self) -> Sequence[Path | Member | Written]: ...
    @property
    def generation(self) -> dict[str, Any]: ...
    def graph(self, limits: Limits, dtype: DType, *, all_logits: bool = False) -> Graph: ...


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose model is the generic decoder, told by a config.

    Args:
        folder: where it lies.
        format: what wrote it: huggingface or meta.
        raw: its config, as read.
        expression: each weight over the source's tensors.
        tokens: gives the ids of the tokens that begin, end and pad, as engine.json has them.
        packed: files of the tokenizer that lie in another file, by the names that the runtime knows.
    """

    folder: Path
    format: str
    raw: dict[str, Any]
    config: DecoderConfig
    source: MappedSource
    expression: Expression
    tokens: Callable[[], dict[str, Any]]
    packed: tuple[Member | Written, ...] = ()

    @property
    def dtype(self) -> str:
        """float32, float16 or bfloat16: what the config states, else what most of the tensors are."""
        stated = self.raw.get("dtype") or self.raw.get("torch_dtype")
        if isinstance(stated, str) and stated in DTYPES:
            return stated
        found = Counter(self.source.dtypes.get(entry.dtype) for entry in self.source.entries.values())
        return max(DTYPES, key=lambda name: found[DTYPES[name]])

    def graph(self, limits: Limits, dtype: DType, *, all_logits: bool = False) -> Graph:
        """The graph of this model, in plain ops."""
        weights = Weights(self.source, self.expression, dtype)
        return build_decoder(self.config, weights, limits, dtype, all_logits=all_logits)

    @property
    def tokenizer_files(self) -> list[Path | Member | Written]:
        """Those in another file, and those that lie beside but are not made of what these are made of."""
        names = {file.name for file in self.packed}
        made = {"tokenizer.model"} if "tokenizer.json" in names else set[str]()
        return [*self.packed, *(f for f in tokenizer_files(self.folder) if f.name not in names | made)]

    @property
    def generation(self) -> dict[str, Any]:
        """Ids of the tokens that begin, end and pad."""
        return self.tokens()


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a tokenizer that lie in a directory."""
    return [f for name in TOKENIZER_FILES if (f := folder / name).is_file()]


@dataclass(frozen=True)
class Format:
    """A form that checkpoints come in.

    Args:
        sign: what shows it, for messages: the name of a file in a directory, or the ending of a file.
        finds: whether a path is of this form, by names alone or a look at a config.
        open: the checkpoint there; nothing of its tensors is read but the headers.
    """

    sign: str
    finds: Callable[[Path], bool]
    open: Callable[[Path], Compilable]


def dtype_of(checkpoint: Compilable, asked: str) -> str:
    """The element type asked for, checked; the checkpoint's own where empty."""
    dtype = asked or checkpoint.dtype
    if dtype not in DTYPES:
        raise TrtcError(f"dtype is {dtype}, but must be one of {', '.join(DTYPES)}", *nearest(dtype, DTYPES))
    return dtype


def holds(name: str) -> Callable[[Path], bool]:
    """Whether a path is a directory that holds a file of this name."""
    return lambda path: (path / name).exists()


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; an error that names the file where it is missing or is none."""
    try:
        value: Any = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TrtcError(f"{file.name} is missing from {file.parent}") from None
    except OSError as error:
        raise TrtcError(f"{file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise TrtcError(f"{file.name} is no JSON: {error}") from None
    except RecursionError:
        raise TrtcError(f"{file.name} is nested too deeply to be read") from None
    if not isinstance(value, dict):
        raise TrtcError(f"{file.name} must hold a JSON object")
    return cast("dict[str, Any]", value)


def read_generation(folder: Path, raw: dict[str, Any]) -> dict[str, Any]:
    """The ids of the tokens that begin, end and pad: by generation_config.json first, else config.json."""
    file = folder / "generation_config.json"
    own = read_json(file) if file.is_file() else {}
    bos, eos, pad = (
        _token_ids(key, *((own, file.name) if key in own else (raw, "config.json")))
        for key in ("bos_token_id", "eos_token_id", "pad_token_id")
    )
    return {"bos_token_id": bos[0] if bos else None, "eos_token_ids": eos, "pad_token_id": pad[0] if pad else None}


def _token_ids(key: str, values: dict[str, Any], file: str) -> list[int]:
    """One id, several or none; a negative one stands for none."""
    stated: Any = values.get(key)
    ids = cast("list[Any]", stated if isinstance(stated, list) else [] if stated is None else [stated])
    if not all(type(i) is int for i in ids):
        raise Keys(values, file).wrong(key, cast("object", stated), "a whole number or a list of them")
    return [i for i in ids if i >= 0]
