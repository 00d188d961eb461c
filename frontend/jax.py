"""Flax's parameters: flax_model.msgpack, or Orbax's folders, with a config.json in Hugging Face's form beside them.

They are named as transformers' Flax models name them, as MaxText does, or as Gemma's own library.
"""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Any

from trtc.frontend.checkpoint import Checkpoint, Format, read_generation
from trtc.frontend.config import DecoderConfig, Keys
from trtc.frontend.families import Family, family_of
from trtc.frontend.huggingface import Files, names_of, open_weights, read_config
from trtc.frontend.jax_gemma import gemma_raw, gemma_tensors, is_gemma
from trtc.frontend.jax_maxtext import is_maxtext, maxtext_tensors
from trtc.frontend.sources.flax import FlaxSource
from trtc.frontend.sources.mapped import MappedSource
from trtc.frontend.sources.orbax import METADATA, OrbaxSource
from trtc.frontend.weights import Expression, Fetch, joined, through
from trtc.ir.op import Value
from trtc.ir.ops import Transpose

FLAX = Files("flax_model.msgpack", "flax_model*.msgpack", FlaxSource)
NAMES = ("weight", "embedding", "scale")   # of what torch's modules call weight, but for kernels


def open_jax(folder: Path) -> Checkpoint:
    """The checkpoint of a directory that a Flax model was saved in, by itself or by Orbax."""
    step = None if any(folder.glob(f"{FLAX.whole}*")) else orbax_folder(folder)
    source = OrbaxSource(step) if step else open_weights(folder, (FLAX,))
    pieces = source.pieces if isinstance(source, FlaxSource) else {}
    root = root_of([*source, *pieces])
    known = {key.removeprefix(root) for key in (*source, *pieces)}
    raw, family, config = _config(folder, source, root)
    own = joined(source, pieces)
    if is_gemma(known):
        tensors, names = through(gemma_tensors(source, root), own), {family.prefix}
    elif is_maxtext(known):
        tensors, names = maxtext_tensors(source, root, config), {family.prefix}
    else:
        tensors, names = through(flax_names(known, root), own), {name.replace("/", ".") for name in known}
    weights = through(names_of(family, config, names), tensors)
    return Checkpoint(folder, "jax", raw, config, source, weights, lambda: read_generation(folder, raw))


def _config(folder: Path, source: MappedSource, root: str) -> tuple[dict[str, Any], Family, DecoderConfig]:
    """What config.json says; for Gemma without one, what the shapes show."""
    if (folder / "config.json").is_file() or not is_gemma({key.removeprefix(root) for key in source}):
        return read_config(folder)
    raw = gemma_raw(source, root)
    family = family_of(raw["architectures"][0], "config.json")
    return raw, family, family.config(Keys(raw, "the shapes of the arrays"))


def _finds(path: Path) -> bool:
    return any(path.glob(f"{FLAX.whole}*")) or (path.is_dir() and orbax_folder(path) is not None)


FORMAT = Format(FLAX.whole, _finds, open_jax)


def orbax_folder(folder: Path) -> Path | None:
    """The folder of Orbax's arrays: this one, one in it, or that of the last of some numbered steps."""
    found = [file.parent for depth in ("", "*/", "*/*/") for file in folder.glob(f"{depth}{METADATA}")]

    def step(place: Path) -> int:
        numbers = [int(part) for part in place.relative_to(folder).parts if part.isdecimal() and len(part) < 19]
        return max(numbers, default=-1)

    return max(found, key=step, default=None)


def root_of(keys: list[str]) -> str:
    """What stands before the names of a model's parameters: the names of the variables that a trainer saved."""
    for root in ("params/params/", "params/"):
        if any(key.startswith(root) for key in keys):
            return root
    return ""


def flax_names(known: Container[str], root: str = "") -> Expression:
    """The tensors of transformers' torch models, by the names of its Flax models, where kernels are transposed.

    ``model.layers.0.mlp.up_proj.weight`` is ``transpose(model/layers/0/mlp/up_proj/kernel)``.

    Args:
        known: the names that are there.
        root: what stands before each of them.
    Source: transformers 4, modeling_flax_pytorch_utils.py.
    """

    def tensor(key: str, shape: tuple[int, ...], fetch: Fetch) -> Value:
        stem, _, kind = key.replace(".", "/").rpartition("/")
        found = [n for n in NAMES if f"{stem}/{n}" in known]
        if kind == "weight" and len(shape) == 2 and not found:
            return Transpose(fetch(f"{root}{stem}/kernel", *reversed(shape)), (1, 0))
        return fetch(f"{root}{stem}/{(found or NAMES[2:])[0] if kind == 'weight' else kind}", *shape)

    return tensor
