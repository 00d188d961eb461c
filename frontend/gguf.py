"""GGUF files, as llama.cpp has them: one, or several with -00001-of-0000N in their names.

Source: convert_hf_to_gguf.py and src/llama-arch.cpp of llama.cpp.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trtc.errors import TrtcError
from trtc.frontend.checkpoint import Checkpoint, Format
from trtc.frontend.config import Keys
from trtc.frontend.families import family_of
from trtc.frontend.gguf_models import ARCHITECTURES, NEEDED, WITH_EXPERTS, Translation
from trtc.frontend.gguf_rope import rope_keys
from trtc.frontend.gguf_tokenizer import tokenizer_of
from trtc.frontend.meta import in_halves
from trtc.frontend.quantized.ggml import DEQUANTIZE, Bytes
from trtc.frontend.sources.gguf import BLOCKS, GgufSource
from trtc.frontend.weights import PLAIN, Expression, Fetch, named
from trtc.ir.errors import nearest
from trtc.ir.op import Value
from trtc.ir.ops import Cast, Reshape, Slice, Sub, scalar
from trtc.ir.types import f32, u8

PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
SIZES = {name: (size, width) for name, size, width in BLOCKS.values()}
END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")


def is_gguf(path: Path) -> bool:
    """Whether a path is a GGUF file, or a folder of some."""
    return any(path.glob("*.gguf")) if path.is_dir() else path.suffix == ".gguf"


def open_gguf(path: Path) -> Checkpoint:
    """The checkpoint of a GGUF file, of the first of several, or of a folder that holds one model of them."""
    folder, files = _files(path)
    source = GgufSource(folder, files)
    keys = Keys(source.metadata, files[0])
    form = _translation(keys)
    raw = _config(keys, form, source)
    family = family_of(form.architecture, files[0])
    config = family.config(Keys(raw, files[0]))
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads} if form.turned else {}
    expression = translated(named(family.names, config, ()), form, source, heads)
    packed = tokenizer_of(keys, folder)
    return Checkpoint(folder, "gguf", raw, config, source, expression, lambda: _generation(keys), packed)


FORMAT = Format("*.gguf", is_gguf, open_gguf)


def _files(path: Path) -> tuple[Path, list[str]]:
    """The folder, and the names of a model's files."""
    folder, every = (path, sorted(f.name for f in path.glob("*.gguf"))) if path.is_dir() else (path.parent, [path.name])
    models = sorted({(found[1], found[3]) if (found := PART.fullmatch(name)) else (name, "") for name in every})
    if not models:
        raise TrtcError(f"{path} holds no *.gguf", "help: name the .gguf file itself")
    if len(models) > 1:
        note = f"help: give one file of {', '.join(every[:4])}{', ...' * (len(every) > 4)}"
        raise TrtcError(f"{path} holds {len(models)} models of GGUF, but must hold one", note)
    stem, count = models[0]
    names = [f"{stem}-{n:05}-of-{count}.gguf" for n in range(1, int(count or 0) + 1)] or every
    for name in names[1:] and names:
        if not (folder / name).is_file():
            raise TrtcError(f"{name} is missing from {folder}", "help: fetch it, too")
    return folder, names


def _translation(keys: Keys) -> Translation:
    name = keys.get(str, "general.architecture")
    every = list(dict.fromkeys((*ARCHITECTURES, *WITH_EXPERTS)))
    if name not in every:
        known = nearest(name, every) or [f"help: one of {', '.join(every)}"]
        raise TrtcError(f"{keys.file}: architecture {name:.60} of GGUF is unknown", *known)
    experts = keys.get(int, f"{name}.expert_count", default=0)
    forms = WITH_EXPERTS if experts else ARCHITECTURES
    if name not in forms:
        raise keys.wrong(f"{name}.expert_count", experts, "0" if experts else "at least 1")
    return forms[name]


def _config(keys: Keys, form: Translation, source: GgufSource) -> dict[str, Any]:
    """The metadata under Hugging Face's names, and what the tensors show."""
    prefix = keys.get(str, "general.architecture")
    number = {name: keys.positive(f"{prefix}.{name}") for name in NEEDED}
    heads, hidden = number["attention.head_count"], number["embedding_length"]
    size = keys.positive(f"{prefix}.attention.key_length", default=max(1, hidden // heads))
    turned = keys.positive(f"{prefix}.rope.dimension_count", default=size)
    if turned > size or (turned != size and not form.partial):
        raise keys.wrong(f"{prefix}.rope.dimension_count", turned, f"{size}, the size of a head")
    if (value_size := keys.get(int, f"{prefix}.attention.value_length", default=size)) != size:
        raise keys.wrong(f"{prefix}.attention.value_length", value_size, f"{size}, the size of a head")
    kinds = {entry.dtype for entry in source.entries.values()}
    names = {theirs: f"{prefix}.{ours}" for ours, theirs in form.keys.items()}
    return {
        "architectures": [form.architecture],
        "vocab_size": source.type("token_embd.weight").shape[0],
        "tie_word_embeddings": "output.weight" not in source,
        "num_key_value_heads": heads, "head_dim": size, "rope_theta": 10000.0,   # where nothing is said
        "dtype": "float32" if kinds <= {"F32"} else "bfloat16" if kinds <= {"F32", "BF16"} else "float16",
        **{theirs: tensor in source for theirs, tensor in form.shown.items()},
        **(form.stated(size, number) if form.stated else {}),
        **{theirs: keys.values[ours] for theirs, ours in names.items() if ours in keys.values},
        **({"partial_rotary_factor": turned / size} if form.partial else {}),
        **rope_keys(keys, prefix, turned, source),
    }


def translated(plain: Expression, form: Translation, source: GgufSource, heads: Mapping[str, int]) -> Expression:
    """Weights by role, where the tensors that they are made of have GGUF's names, blocks and order.

    Args:
        plain: over the tensors as Hugging Face has them.
        heads: of the tensors whose rotary pairs are neighbours, by the last part of their names.
    """

    def expression(role: str, shape: tuple[int, ...], fetch: Fetch) -> Value:
        def fetch_translated(key: str, *sizes: int) -> Value:
            name, expert = form.tensor(key)
            if expert >= 0 and (alone := name.replace("_exps.", f".{expert}.")) in source:
                name, expert = alone, -1   # as files of 2023 keep them
            x, part = _stored(source, fetch, name, sizes, expert), name.split(".")[2 if name.startswith("blk.") else 0]
            if part in heads:
                return Reshape(in_halves(x, heads[part], sizes[0], math.prod(sizes[1:])), sizes)
            if form.offset and part.endswith("norm"):
                return Sub(x if x.dtype == f32 else Cast(x, f32), scalar(form.offset, f32))
            return x

        return plain(role, shape, fetch_translated)

    return expression


def _stored(source: GgufSource, fetch: Fetch, name: str, sizes: tuple[int, ...], expert: int) -> Value:
    """A tensor, or an expert's part of one that has those of all, as f32 where it comes in blocks."""
    kind = source.entries[name].dtype if name in source else ""
    size, width = SIZES.get(kind, (0, 0))
    in_blocks = len(sizes) == 2 and size and sizes[1] % size == 0
    shape, of = ((sizes[0], sizes[1] // size, width), (u8,)) if in_blocks else (sizes, PLAIN)
    if expert < 0:
        x = fetch(name, *shape, of=of)
    else:
        x = Reshape(Slice(fetch(name, *source.type(name).shape[:1], *shape, of=of), 0, expert, 1), shape)
    if not in_blocks:
        return x
    return Reshape(DEQUANTIZE[kind](Bytes(Reshape(x, (math.prod(sizes) // size, width)))), sizes)


def _generation(keys: Keys) -> dict[str, Any]:
    """Ids of the tokens that begin, end and pad, as the tokenizer's metadata has them."""
    def one(name: str) -> int | None:
        key = f"tokenizer.ggml.{name}"
        return keys.get(int, key) if keys.values.get(key) is not None else None

    ends = list(dict.fromkeys(end for name in END_KEYS if (end := one(name)) is not None))
    return {"bos_token_id": one("bos_token_id"), "eos_token_ids": ends, "pad_token_id": one("padding_token_id")}
