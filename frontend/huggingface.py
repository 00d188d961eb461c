"""Hugging Face directories: config.json, safetensors files, tokenizer."""

from __future__ import annotations

import json
from collections import Counter
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
FILE_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}   # as safetensors spells them
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
)   # fmt: skip
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"


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
        """float32, float16 or bfloat16: what config.json states, else what most of the tensors are."""
        stated = self.raw.get("dtype") or self.raw.get("torch_dtype")
        if isinstance(stated, str) and stated in DTYPES:
            return stated
        found = Counter(entry.dtype for entry in self.source.entries.values())
        return max(DTYPES, key=lambda name: found[FILE_DTYPES[name]])

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
        own = read_json(file) if file.is_file() else {}
        bos, eos, pad = (
            _token_ids(key, *((own, file.name) if key in own else (self.raw, "config.json")))
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
    if raw.get("quantization_config"):
        raise TrtcError(
            "config.json: there is a quantization_config, but weights must be plain floats",
            "help: save the model without quantization",
        )
    config = family.config(Keys(raw, "config.json"))
    homes = weight_map(folder)
    return Checkpoint(folder, raw, family, config, SafetensorsSource(folder, weight_files(folder, homes), homes))


def _architecture(raw: dict[str, Any]) -> str:
    stated: Any = raw.get("architectures")
    if not isinstance(stated, list) or not stated or not isinstance(cast("list[Any]", stated)[0], str):
        raise TrtcError("config.json: architectures is missing", 'help: add "architectures": ["LlamaForCausalLM"]')
    return cast("list[str]", stated)[0]


def weight_map(folder: Path) -> dict[str, str]:
    """The file of each tensor, by the index; empty where all are in model.safetensors or there is no index."""
    if (folder / WHOLE).is_file() or not (folder / INDEX).is_file():
        return {}
    homes: Any = read_json(folder / INDEX).get("weight_map")
    if not isinstance(homes, dict) or not homes:
        raise TrtcError(f"{INDEX}: weight_map is missing, but must say which file holds each tensor")
    for key, name in cast("dict[str, Any]", homes).items():
        if not isinstance(name, str) or Path(name).name != name:
            shown = json.dumps(name)
            raise TrtcError(f"{INDEX}: the file of tensor {key} is {shown}, but must be a name in the same folder")
    return cast("dict[str, str]", homes)


def weight_files(folder: Path, homes: dict[str, str]) -> list[str]:
    """The safetensors files of a directory: model.safetensors, else those the index names, else every one there."""
    if (folder / WHOLE).is_file():
        return [WHOLE]
    there = {f.name for f in folder.glob("*.safetensors")}
    names = sorted(set(homes.values()) or there)
    if not names:
        raise TrtcError(f"{folder} holds no .safetensors file", "help: save the model with safe_serialization=True")
    for name in names:
        if name not in there:
            raise TrtcError(f"{name} is missing from {folder}, but {INDEX} names it", "help: fetch it again")
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
    except RecursionError:
        raise TrtcError(f"{file.name} is nested too deeply to be read") from None
    if not isinstance(value, dict):
        raise TrtcError(f"{file.name} must hold a JSON object")
    return cast("dict[str, Any]", value)
