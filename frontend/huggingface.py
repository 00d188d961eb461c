"""Hugging Face directories: config.json, safetensors files, tokenizer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from trtc.errors import TrtcError
from trtc.frontend.config import DecoderConfig, Keys
from trtc.frontend.decoder import Limits, build_decoder
from trtc.frontend.families import Family, family_of
from trtc.frontend.sources.safetensors import SafetensorsSource
from trtc.frontend.weights import Weights
from trtc.ir.graph import Graph
from trtc.ir.types import DType, bf16, f16, f32

DTYPES = {"float32": f32, "float16": f16, "bfloat16": bf16}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that can be compiled.

    Args:
        folder: where it lies.
        raw: config.json, as read.
    """

    folder: Path
    raw: dict[str, Any]
    family: Family
    config: DecoderConfig
    source: SafetensorsSource

    @property
    def dtype(self) -> str:
        """The element type that the checkpoint states: float32, float16 or bfloat16."""
        stated = self.raw.get("dtype") or self.raw.get("torch_dtype")
        return stated if stated in DTYPES else "float32"

    def graph(self, limits: Limits, dtype: DType, *, all_logits: bool = False) -> Graph:
        """The graph of this model, in plain ops."""
        weights = Weights(self.source, self.family.key, dtype)
        return build_decoder(self.config, weights, limits, dtype, all_logits=all_logits)

    @cached_property
    def tokenizer_files(self) -> list[Path]:
        return [f for name in TOKENIZER_FILES if (f := self.folder / name).is_file()]

    @cached_property
    def generation(self) -> dict[str, Any]:
        """Ids of the tokens that begin, end and pad: generation_config.json first, else config.json."""
        file = self.folder / "generation_config.json"
        stated = {**self.raw, **(read_json(file) if file.is_file() else {})}
        eos = stated.get("eos_token_id")
        return {
            "bos_token_id": stated.get("bos_token_id"),
            "eos_token_ids": eos if isinstance(eos, list) else [] if eos is None else [eos],
            "pad_token_id": stated.get("pad_token_id"),
        }


def open_checkpoint(path: str | Path) -> Checkpoint:
    """The checkpoint in a directory; nothing of its tensors is read yet but the headers.

    Errors:
        TrtcError: no directory, no config, an unknown architecture, a key or a file that is missing or wrong.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise TrtcError(f"{path} is no directory", "help: give the directory that holds config.json and *.safetensors")
    raw = read_json(folder / "config.json")
    family = family_of(_architecture(raw), "config.json")
    config = family.config(Keys(raw, "config.json"))
    return Checkpoint(folder, raw, family, config, SafetensorsSource(folder, weight_files(folder)))


def _architecture(raw: dict[str, Any]) -> str:
    stated: Any = raw.get("architectures")
    if not isinstance(stated, list) or not stated or not isinstance(cast("list[Any]", stated)[0], str):
        raise TrtcError("config.json: architectures is missing", 'help: add "architectures": ["LlamaForCausalLM"]')
    return cast("list[str]", stated)[0]


def weight_files(folder: Path) -> list[str]:
    """The safetensors files of a directory: those the index names, else every one there."""
    if (folder / INDEX).is_file():
        shards: Any = read_json(folder / INDEX).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise TrtcError(f"{INDEX}: weight_map is missing, but must say which file holds each tensor")
        names = sorted({str(name) for name in cast("dict[str, Any]", shards).values()})
    else:
        names = sorted(f.name for f in folder.glob("*.safetensors"))
    if not names:
        raise TrtcError(f"{folder} holds no .safetensors file", "help: save the model with safe_serialization=True")
    for name in names:
        if not (folder / name).is_file():
            raise TrtcError(f"{name} is missing from {folder}, but {INDEX} names it")
    return names


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
    if not isinstance(value, dict):
        raise TrtcError(f"{file.name} must hold a JSON object")
    return cast("dict[str, Any]", value)
