"""Where the files of ranks keep each weight: stages of layers, parts, merged tensors, padded vocabularies."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from trtc.errors import TrtcError
from trtc.frontend.config import DecoderConfig
from trtc.ir.types import DType, f32
from trtc.passes.tensor_parallel import (
    KEY_VALUE,
    QUERY,
    divided_axis,
    is_divisible,
    is_of_experts,
    share,
    stage_layers,
)

EMBEDDING, HEAD = "transformer.vocab_embedding", "lm_head"
MERGED = {"qkv": ("q", "k", "v"), "fc": ("gate", "fc")}
"""Modules that one tensor holds, in order; gate and fc of experts only."""
LAYER = re.compile(r"\.layers\.(\d+)\.")


@dataclass(frozen=True)
class Mapping:
    """How a model is spread: file = stage * tp + place among those that divide tensors.

    Args:
        tp: ranks that divide each tensor.
        pp: pipeline stages, which divide the layers.
        embedding_axis: by which the ranks divide the embedding: 0 the vocabulary, 1 the hidden size; None: not at all.
        moe_ep: into how many parts the experts of a layer fall, of tp; tp / moe_ep ranks divide each expert. Ranks
            that follow one another have other experts, those moe_ep apart other parts of the same ones.
        cp: context-parallel ranks, which divide sequences and share files.
    """

    tp: int = 1
    pp: int = 1
    embedding_axis: int | None = None
    moe_ep: int = 1
    cp: int = 1

    @property
    def world(self) -> int:
        return self.files * self.cp

    @property
    def files(self) -> int:
        return self.tp * self.pp

    @property
    def moe_tp(self) -> int:
        return self.tp // self.moe_ep


def spread_of_experts(tp: int, moe_tp: int, moe_ep: int, where: str = "") -> int:
    """Into how many parts the experts of a layer fall, of tp ranks; a size below 1 is what the other leaves.

    Errors:
        TrtcError: the sizes do not make up tp.
    """
    parts = moe_ep if moe_ep > 0 else max(1, tp // moe_tp) if moe_tp > 0 else 1
    each = moe_tp if moe_tp > 0 else max(1, tp // parts)
    if parts * each != tp:
        raise TrtcError(f"{where}moe_tp_size * moe_ep_size is {each} * {parts}, but must be tp_size, {tp}")
    return parts


@dataclass(frozen=True)
class Cut:
    """How ranks divide one axis of a weight.

    Args:
        axis: which they divide.
        size: of the axis, with the zeros at its end that make it come out even.
        units: into how many parts it can be divided; several ranks have the same one where there are fewer.
        ranks: that divide it.
        apart: how far apart ranks of other parts lie.
    """

    axis: int
    size: int
    units: int
    ranks: int
    apart: int = 1

    @property
    def holders(self) -> range:
        """The places, from the first one's, of those ranks whose parts are the whole."""
        return range(0, self.ranks * self.apart, self.ranks // min(self.units, self.ranks) * self.apart)

    def share(self, place: int) -> tuple[int, int]:
        """Where the part of the rank at a place begins, and its length."""
        return share(self.size, self.units, place // self.apart % self.ranks, self.ranks)


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

    def cuts(self, role: str, shape: tuple[int, ...]) -> tuple[Cut, ...]:
        """How the ranks divide a weight: along one axis, or along two; none where each has all of it.

        Errors:
            TrtcError: it cannot be divided.
        """
        mapping, module = self.mapping, role.rpartition(".")[0]
        axis = divided_axis(role, shape, self.config.head_dim)
        axis = mapping.embedding_axis if module == EMBEDDING else axis
        if not is_of_experts(role, shape):
            return () if axis is None else self._cut(role, shape, axis, mapping.tp)
        assert axis is not None
        whole = self._cut(role, shape, 0, mapping.moe_ep)
        return (*whole, *self._cut(role, shape, axis, mapping.moe_tp, apart=mapping.moe_ep))

    def _cut(self, role: str, shape: tuple[int, ...], axis: int, ranks: int, apart: int = 1) -> tuple[Cut, ...]:
        if ranks == 1:
            return ()
        module = role.rpartition(".")[0]
        name, size = module.rpartition(".")[2], shape[axis]
        if module in (HEAD, EMBEDDING) and axis == 0:
            return (Cut(axis, padded := size + -size % ranks, padded, ranks),)
        units = self._units(name, size)
        if not is_divisible(units, ranks, repeats=name in KEY_VALUE):
            by = "moe_ep_size" if axis == 0 and len(shape) == 3 else "moe_tp_size" if apart > 1 else "tp_size"
            raise _uneven(role, name, shape, axis, units, ranks, by)
        return (Cut(axis, size, units, ranks, apart),)

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


def _uneven(
    role: str, name: str, shape: tuple[int, ...], axis: int, units: int, ranks: int, by: str
) -> TrtcError:
    if name in KEY_VALUE:
        return TrtcError(f"num_key_value_heads is {units}, but must be a multiple or a divisor of {by}, {ranks}")
    if units != shape[axis]:
        return TrtcError(f"num_attention_heads is {units}, but must be a multiple of {by}, {ranks}")
    sizes = ", ".join(map(str, shape))
    return TrtcError(f"{role} is [{sizes}], but its {shape[axis]} must be a multiple of {by}, {ranks}")
