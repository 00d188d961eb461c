"""Where the files of ranks keep each weight: stages of layers, parts, merged tensors, padded vocabularies."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from trtc.errors import TrtcError
from trtc.frontend.config import DecoderConfig
from trtc.ir.types import DType, f32
from trtc.passes.tensor_parallel import KEY_VALUE, QUERY, divided_axis, is_divisible, share, stage_layers

EMBEDDING, HEAD = "transformer.vocab_embedding", "lm_head"
MERGED = {"qkv": ("q", "k", "v"), "fc": ("gate", "fc")}
"""Modules that one tensor holds, in order; gate and fc of experts only."""
LAYER = re.compile(r"\.layers\.(\d+)\.")


@dataclass(frozen=True)
class Mapping:
    """How a model is spread: rank = stage * tp + place among those that divide tensors.

    Args:
        tp: ranks that divide each tensor.
        pp: pipeline stages, which divide the layers.
        embedding_axis: by which the ranks divide the embedding: 0 the vocabulary, 1 the hidden size; None: not at all.
    """

    tp: int = 1
    pp: int = 1
    embedding_axis: int | None = None

    @property
    def world(self) -> int:
        return self.tp * self.pp


@dataclass(frozen=True)
class Cut:
    """How ranks divide one weight.

    Args:
        axis: which they divide.
        size: of the axis, with the zeros at its end that make it come out even.
        units: into how many parts it can be divided; several ranks have the same one where there are fewer.
    """

    axis: int
    size: int
    units: int
    ranks: int

    @property
    def holders(self) -> range:
        """Those ranks whose parts are the whole."""
        return range(0, self.ranks, self.ranks // min(self.units, self.ranks))

    def share(self, rank: int) -> tuple[int, int]:
        """Where a rank's part begins, and its length."""
        return share(self.size, self.units, rank, self.ranks)


@dataclass(frozen=True)
class Layout:
    """What each rank has of a model."""

    config: DecoderConfig
    mapping: Mapping

    @cached_property
    def stages(self) -> list[range]:
        """The layers of each stage."""
        return stage_layers(self.config.num_hidden_layers, self.mapping.pp)

    def home(self, role: str) -> tuple[int, str] | None:
        """The stage of a layer's weight, and its name there, where layers count from 0; None outside the layers."""
        layer = LAYER.search(role)
        if not layer:
            return None
        stage = next(n for n, layers in enumerate(self.stages) if int(layer[1]) in layers)
        return stage, role.replace(layer[0], f".layers.{int(layer[1]) - self.stages[stage].start}.")

    def cut(self, role: str, shape: tuple[int, ...]) -> Cut | None:
        """How the ranks divide a weight; None where each has all of it.

        Errors:
            TrtcError: it cannot be divided.
        """
        ranks, module = self.mapping.tp, role.rpartition(".")[0]
        axis = divided_axis(role, shape, self.config.head_dim)
        axis = self.mapping.embedding_axis if module == EMBEDDING else axis
        if axis is None or ranks == 1:
            return None
        name, size = module.rpartition(".")[2], shape[axis]
        if module in (HEAD, EMBEDDING) and axis == 0:
            return Cut(axis, padded := size + -size % ranks, padded, ranks)
        units = self._units(name, size)
        if not is_divisible(units, ranks, repeats=name in KEY_VALUE):
            raise _uneven(role, name, shape, axis, units, ranks)
        return Cut(axis, size, units, ranks)

    def _units(self, name: str, size: int) -> int:
        if name in KEY_VALUE:
            return self.config.num_key_value_heads
        return self.config.num_attention_heads if name in QUERY else size

    def container(self, name: str, rank: int) -> tuple[str, tuple[str, ...]]:
        """The tensor that a weight of so many axes lies in, and all that do, in order; ("", ()) where it is alone."""
        module, _, kind = name.rpartition(".")
        stem, _, part = module.rpartition(".")
        of_experts = rank == (3 if kind == "weight" else 2) and self.config.gated
        for whole, parts in MERGED.items():
            if part in parts and (whole == "qkv" or of_experts):
                return f"{stem}.{whole}.{kind}", tuple(f"{stem}.{p}.{kind}" for p in parts)
        return "", ()


def joint_axis(name: str, rank: int) -> int:
    """The axis along which weights lie one after the other in one tensor: that of their outputs."""
    return rank - 2 if name.endswith(".weight") else rank - 1


def stored_dtype(role: str, dtype: DType) -> DType:
    """Routers stay in float32: small differences choose the experts."""
    return f32 if ".router." in role else dtype


def _uneven(role: str, name: str, shape: tuple[int, ...], axis: int, units: int, ranks: int) -> TrtcError:
    if name in KEY_VALUE:
        return TrtcError(f"num_key_value_heads is {units}, but must be a multiple or a divisor of tp_size, {ranks}")
    if units != shape[axis]:
        return TrtcError(f"num_attention_heads is {units}, but must be a multiple of tp_size, {ranks}")
    sizes = ", ".join(map(str, shape))
    return TrtcError(f"{role} is [{sizes}], but its {shape[axis]} must be a multiple of tp_size, {ranks}")
