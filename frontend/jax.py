"""Flax's parameters, with a config.json in Hugging Face's form beside them: flax_model.msgpack, or Orbax's folders."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

from trtc.frontend.checkpoint import FORMATS, Checkpoint, Format
from trtc.frontend.huggingface import Files, generation, open_weights, read_config
from trtc.frontend.sources.flax import FlaxSource
from trtc.frontend.weights import Expression, Fetch, joined, named, through
from trtc.ir.op import Value
from trtc.ir.ops import Transpose

FLAX = Files("flax_model.msgpack", "flax_model*.msgpack", FlaxSource)
NAMES = ("weight", "embedding", "scale")   # of what torch's modules call weight, but for kernels


def open_jax(folder: Path) -> Checkpoint:
    """The checkpoint of a directory that a Flax model of transformers was saved in."""
    raw, family, config = read_config(folder)
    source = open_weights(folder, (FLAX,))
    assert isinstance(source, FlaxSource)
    tensors = through(flax_names({*source, *source.pieces}), joined(source, source.pieces))
    return Checkpoint(
        folder, "jax", raw, config, source, through(named(family.names, config), tensors),
        lambda: generation(folder, raw),
    )   # fmt: skip


FORMATS["jax"] = Format(FLAX.whole, lambda path: any(path.glob(f"{FLAX.whole}*")), open_jax)


def flax_names(known: Container[str]) -> Expression:
    """The tensors of transformers' torch models, by the names of its Flax models, where kernels are transposed.

    ``model.layers.0.mlp.up_proj.weight`` is ``transpose(model/layers/0/mlp/up_proj/kernel)``.

    Args:
        known: the names that are there.
    Source: transformers 4, modeling_flax_pytorch_utils.py.
    """

    def tensor(key: str, shape: tuple[int, ...], fetch: Fetch) -> Value:
        stem, _, kind = key.replace(".", "/").rpartition("/")
        found = [n for n in NAMES if f"{stem}/{n}" in known]
        if kind == "weight" and len(shape) == 2 and not found:
            return Transpose(fetch(f"{stem}/kernel", *reversed(shape)), (1, 0))
        return fetch(f"{stem}/{(found or NAMES[2:])[0] if kind == 'weight' else kind}", *shape)

    return tensor
