"""NeMo's checkpoints of GPT and LLaMA models: a config in YAML, Megatron's names, tensors kept in one of three ways.

NeMo 1: an archive, or a folder, of model_config.yaml and the files of ranks, or a distributed checkpoint. NeMo 2 and
Megatron Bridge: a folder of a distributed checkpoint and the objects' configs.

Source: nemo/collections/nlp/models/language_modeling/megatron_gpt_model.py and scripts/checkpoint_converters of NeMo 1;
nemo/lightning of NeMo 2; megatron/core/dist_checkpointing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from trtc.errors import TrtcError
from trtc.frontend.checkpoint import TOKENIZER_FILES, Checkpoint, Format
from trtc.frontend.config import Keys
from trtc.frontend.nemo_config import nemo_config, read_norm
from trtc.frontend.nemo_lightning import CONFIGS, translated
from trtc.frontend.nemo_names import Names, Ranks, Stacks, Tensors
from trtc.frontend.sources.mapped import MappedSource
from trtc.frontend.sources.megatron import DistributedSource, distributed_home
from trtc.frontend.sources.nemo import CONFIG, NemoSource, members_of, read_yaml
from trtc.frontend.sources.tar import Member
from trtc.frontend.weights import named, through

MAX_TOKENIZER = 64 << 20   # bytes
OBJECTS = "context/io.json"   # objects to be made again by running NeMo


def open_nemo(path: Path) -> Checkpoint:
    """The checkpoint of an archive, or of a folder."""
    members = members_of(path)
    raw, keys = _config(path, members)
    source, tensors = _tensors(path, members, keys)
    core = not tensors.root.endswith("language_model.")
    stages = source.stages if isinstance(source, NemoSource) else 1
    config = nemo_config(keys, tensors.words, ranks=tensors.ranks, stages=stages, core=core)
    names = Names(tensors, core, read_norm(keys)[1]).entries(config)
    weights = through(named(names, config, tensors), tensors)
    packed = _tokenizer(raw, members)
    return Checkpoint(path, "nemo", raw, config, source, weights, lambda: _generation(raw, packed), packed)


def _finds(path: Path) -> bool:
    signs = (CONFIG, *CONFIGS, OBJECTS)
    return (path.suffix == ".nemo" and path.is_file()) or any((path / name).is_file() for name in signs)


FORMAT = Format(CONFIG, _finds, open_nemo)


def _config(path: Path, members: Mapping[str, Member]) -> tuple[dict[str, Any], Keys]:
    """The config as it is, and under the keys of NeMo 1."""
    name = next((name for name in (CONFIG, *CONFIGS) if name in members), CONFIG)
    if name not in members and OBJECTS in members:
        save = "help: save it with a newer NeMo 2, or export it to Hugging Face's form"
        raise TrtcError(f"{path} holds {OBJECTS}, but must hold context/model.yaml, which says the config", save)
    raw = read_yaml(members, name, path)
    return raw, Keys(raw, name) if name == CONFIG else translated(raw, name)


def _tensors(path: Path, members: Mapping[str, Member], keys: Keys) -> tuple[MappedSource, Tensors]:
    """The tensors of ranks, or those of a distributed checkpoint."""
    home = distributed_home(members)
    if home is not None:
        distributed = DistributedSource(path, members, home)
        return distributed, Stacks(distributed)
    source = NemoSource(path, members)
    layers = keys.positive("num_layers")
    if layers % source.stages:
        raise keys.wrong("num_layers", layers, f"a multiple of the {source.stages} stages")
    return source, Ranks(source, layers)


def _tokenizer(raw: dict[str, Any], members: Mapping[str, Member]) -> tuple[Member, ...]:
    """The SentencePiece model that the config names, under the name that the runtime knows; or what NeMo 2 keeps."""
    section: Any = raw.get("tokenizer")
    stated = cast("dict[str, Any]", section) if isinstance(section, dict) else {}
    own = stated.get("library") == "sentencepiece"
    name = str(stated.get("model")).removeprefix("nemo:").rpartition("/")[2] if own else ""
    found = [member for member in members.values() if member.name == name]
    if found:
        return (replace(found[0], name="tokenizer.model"),)
    kept = {m.name: m for key, m in members.items() if key.startswith("context/") and m.name in TOKENIZER_FILES}
    return tuple(kept.values())


def _generation(raw: dict[str, Any], packed: tuple[Member, ...]) -> dict[str, Any]:
    """The ids that the tokenizer has, or that NeMo 2's model states; none where neither does."""
    ids = [-1, -1, -1]
    if any(member.name == "tokenizer.model" for member in packed):
        model = next(member for member in packed if member.name == "tokenizer.model")
        sentencepiece: Any = import_module("sentencepiece")
        try:
            words: Any = sentencepiece.SentencePieceProcessor(model_proto=model.read(MAX_TOKENIZER))
        except RuntimeError as error:
            raise TrtcError(f"{model.file.name}: the tokenizer cannot be read: {error}") from None
        ids = [words.bos_id(), words.eos_id(), words.pad_id()]
    stated = _stated_generation(raw)
    bos, eos, pad = (stated.get(f"{key}_token_id", i) for key, i in zip(("bos", "eos", "pad"), ids, strict=True))
    ends = [i for i in cast("list[Any]", eos if isinstance(eos, list) else [eos]) if type(i) is int and i >= 0]
    first, fill = (i if type(i) is int and i >= 0 else None for i in (bos, pad))
    return {"bos_token_id": first, "eos_token_ids": ends, "pad_token_id": fill}


def _stated_generation(raw: dict[str, Any]) -> dict[str, Any]:
    """``generation_config`` of NeMo 2's and Megatron Bridge's models."""
    for section in ("config", "model"):
        value: Any = raw
        for key in (section, "generation_config", "config_dict"):
            value = cast("dict[str, Any]", value).get(key) if isinstance(value, dict) else None
        if isinstance(value, dict):
            return cast("dict[str, Any]", value)
    return {}
