"""Hugging Face directories: config.json, files of safetensors or of torch, tokenizer."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from trtc.errors import TrtcError
from trtc.frontend.checkpoint import Checkpoint, Format, read_generation, read_json
from trtc.frontend.config import DecoderConfig, Keys
from trtc.frontend.families import Family, family_of
from trtc.frontend.quantized import dequantized
from trtc.frontend.sources.mapped import MappedSource
from trtc.frontend.sources.safetensors import SafetensorsSource
from trtc.frontend.sources.torch_zip import TorchSource
from trtc.frontend.weights import Expression, named


@dataclass(frozen=True)
class Files:
    """How the weights of a directory are laid out.

    Args:
        whole: the file that holds all of them; ``.index.json`` behind it is that of several.
        pattern: of the several.
    """

    whole: str
    pattern: str
    source: type[MappedSource]

    @property
    def index(self) -> str:
        return f"{self.whole}.index.json"


SAFETENSORS = Files("model.safetensors", "*.safetensors", SafetensorsSource)
TORCH = Files("pytorch_model.bin", "pytorch_model*.bin", TorchSource)


def open_huggingface(folder: Path) -> Checkpoint:
    """The checkpoint of a directory that transformers wrote."""
    raw, family, config = read_config(folder)
    source = open_weights(folder)
    expression = names_of(family, config, source)
    if quantization := _quantization(folder, raw):
        expression = dequantized(expression, quantization, source)
    return Checkpoint(folder, "huggingface", raw, config, source, expression, lambda: read_generation(folder, raw))


def has_weights(folder: Path) -> bool:
    """Whether a path is a directory with a config.json and weights in a form of Hugging Face's."""
    patterns = [pattern for f in (SAFETENSORS, TORCH) for pattern in (f.pattern, f.index)]
    return (folder / "config.json").exists() and any(any(folder.glob(pattern)) for pattern in patterns)


FORMAT = Format("config.json", has_weights, open_huggingface)


def read_config(folder: Path) -> tuple[dict[str, Any], Family, DecoderConfig]:
    """config.json, the family that it names, and what the decoder is told."""
    raw = read_json(folder / "config.json")
    family = family_of(_architecture(raw), "config.json")
    return raw, family, family.config(Keys(raw, "config.json"))


def names_of(family: Family, config: DecoderConfig, known: Collection[str]) -> Expression:
    """Weights by the family's names, as they are spelt: those of a model saved without lm_head lack a prefix."""
    headless = not any(key.startswith(family.prefix) for key in known)
    return named(family.names, config, known, strip=family.prefix if headless else "")


def _architecture(raw: dict[str, Any]) -> str:
    stated: Any = raw.get("architectures")
    if not isinstance(stated, list) or not stated or not isinstance(cast("list[Any]", stated)[0], str):
        raise TrtcError("config.json: architectures is missing", 'help: add "architectures": ["LlamaForCausalLM"]')
    return cast("list[str]", stated)[0]


def _quantization(folder: Path, raw: dict[str, Any]) -> Keys | None:
    """How the weights are quantised, as config.json says it, or a file of ModelOpt beside it, which says more."""
    stated = Keys(raw, "config.json").section("quantization_config", "compression_config")
    if stated and "quant_method" in stated.values:
        return stated
    file, producer = folder / "hf_quant_config.json", stated and stated.section("producer")
    if file.is_file():
        stated = Keys(read_json(file), file.name).section("quantization")
    elif not producer or producer.values.get("name") != "modelopt":   # whose first versions named no method
        return stated
    return stated and stated.over(quant_method="modelopt")


def open_weights(folder: Path, layouts: tuple[Files, ...] = (SAFETENSORS, TORCH)) -> MappedSource:
    """The tensors of a directory, found as transformers does: safetensors before torch, one file before an index.

    Several files without an index serve too, each by its own header.
    """
    stated = [f for f in layouts if (folder / f.whole).is_file() or (folder / f.index).is_file()]
    loose = [f for f in layouts if any(folder.glob(f.pattern))]
    if not stated and not loose:
        patterns = " and no ".join(f.pattern for f in layouts)
        raise TrtcError(f"{folder} holds no {patterns}", "help: fetch the weights, too")
    files = (stated or loose)[0]
    homes = weight_map(folder, files)
    return files.source(folder, weight_files(folder, files, homes), homes)


def weight_map(folder: Path, files: Files) -> dict[str, str]:
    """The file of each tensor, by the index; empty where all are in one file or there is no index."""
    if (folder / files.whole).is_file() or not (folder / files.index).is_file():
        return {}
    homes: Any = read_json(folder / files.index).get("weight_map")
    if not isinstance(homes, dict) or not homes:
        raise TrtcError(f"{files.index}: weight_map is missing, but must say which file holds each tensor")
    for key, name in cast("dict[str, Any]", homes).items():
        if not isinstance(name, str) or Path(name).name != name:
            stated = f"the file of tensor {key} is {json.dumps(name)}"
            raise TrtcError(f"{files.index}: {stated}, but must be a name in the same folder")
    return cast("dict[str, str]", homes)


def weight_files(folder: Path, files: Files, homes: dict[str, str]) -> list[str]:
    """The one file that holds all, else those that the index names, else every one there."""
    if (folder / files.whole).is_file():
        return [files.whole]
    names = sorted(set(homes.values())) or sorted(f.name for f in folder.glob(files.pattern))
    for name in names:
        if not (folder / name).is_file():
            raise TrtcError(f"{name} is missing from {folder}, but {files.index} names it", "help: fetch it again")
    return names
