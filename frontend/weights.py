"""Weights by role: expressions over a checkpoint's tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from trtc.errors import TrtcError
from trtc.frontend.config import DecoderConfig
from trtc.frontend.sources.pieces import Pieces
from trtc.ir.op import Array, Value
from trtc.ir.ops import Cast, Concat, Reshape, Weight
from trtc.ir.types import DType, TensorType, bf16, f16, f32

PLAIN = (f32, f16, bf16)   # what needs no scales beside it
Fetch = Callable[..., Value]
"""A tensor of the checkpoint, of a shape: ``fetch("lm_head.weight", V, H)``, of one of the types ``of``, else PLAIN."""
Expression = Callable[[str, tuple[int, ...], Fetch], Value]
"""The weight of a role, of a shape, over the tensors that it fetches."""


class Source(Protocol):
    """The tensors of a checkpoint, lazily read."""

    def type(self, key: str) -> TensorType: ...
    def __getitem__(self, key: str) -> Array: ...
    def __contains__(self, key: object, /) -> bool: ...
    def __iter__(self) -> Iterator[str]: ...
    def __len__(self) -> int: ...
    def release(self, key: str) -> None: ...


class Weights:
    """The weights of a model by role, such as ``transformer.layers.0.attention.q.weight``, as constant expressions.

    Args:
        source: the checkpoint's tensors.
        expression: what each role is of them.
        dtype: what every weight is cast to.
    """

    def __init__(self, source: Source, expression: Expression, dtype: DType) -> None:
        self.source, self.expression, self.dtype = source, expression, dtype

    def __call__(self, role: str, *shape: int, dtype: DType | None = None) -> Value:
        """The weight of a role, of this shape; an error that names the tensor, both shapes and the role.

        Args:
            dtype: what it is cast to, if not to that of all.
        """
        weight, to = self.stored(role, *shape), dtype or self.dtype
        return weight if weight.dtype == to else Cast(weight, to)

    def stored(self, role: str, *shape: int) -> Value:
        """The same, in the element type that the checkpoint has."""

        def fetch(key: str, *sizes: int, of: tuple[DType, ...] = PLAIN) -> Value:
            return self._fetch(role, key, sizes, of)

        return self.expression(role, shape, fetch)

    def _fetch(self, role: str, key: str, shape: tuple[int, ...], of: tuple[DType, ...]) -> Weight:
        stored = self.source.type(key)
        if stored.shape != shape:
            want, note = TensorType(stored.dtype, shape), "help: the tensors and the config are of different models"
            raise TrtcError(f"tensor {key} is {stored}, but the config asks for {want}", f"it is {role}", note)
        if stored.dtype not in of:
            want = ", ".join(d.name for d in of)
            raise TrtcError(f"tensor {key} is {stored}, but must be {'one of ' * (len(of) > 1)}{want}", f"it is {role}")
        return Weight(key, stored)


@dataclass(frozen=True)
class Wanted:
    """The weight that an entry of a name map makes.

    Args:
        kind: weight or bias: the last part of its role.
        fetch: gives tensors of the checkpoint; ``{n}`` in a key stands for the layer.
        has: whether the checkpoint has a tensor; keys as for ``fetch``.
    """

    kind: str
    shape: tuple[int, ...]
    config: DecoderConfig
    fetch: Fetch
    has: Callable[[str], bool]


Entry = str | Callable[[Wanted], Value]
"""A checkpoint's key less its last part, which holds the weight as it is; or what makes it of other tensors."""


def named(
    names: Mapping[str, Entry], config: DecoderConfig, source: Container[object], *, strip: str = ""
) -> Expression:
    """Weights by a table of roles less their last part; ``{n}`` stands for the layer in roles and keys.

    With ``{"transformer.layers.{n}.mlp.fc": "model.layers.{n}.w1"}``, ``transformer.layers.3.mlp.fc.weight`` is the
    tensor ``model.layers.3.w1.weight``.

    Args:
        strip: what the keys of this checkpoint do not begin with, though those of the table do.
    """

    def expression(role: str, shape: tuple[int, ...], fetch: Fetch) -> Value:
        layer = re.search(r"\.layers\.(\d+)\.", role)
        general = role.replace(layer[0], ".layers.{n}.") if layer else role
        stem, _, kind = general.rpartition(".")

        def filled(key: str) -> str:
            return key.removeprefix(strip).replace("{n}", layer[1] if layer else "")

        def fetch_filled(key: str, *sizes: int) -> Value:
            return fetch(filled(key), *sizes)

        def has(key: str) -> bool:
            return filled(key) in source

        entry = names[stem]
        if isinstance(entry, str):
            return fetch_filled(f"{entry}.{kind}", *shape)
        return entry(Wanted(kind, shape, config, fetch_filled, has))

    return expression


def through(weights: Expression, tensors: Expression) -> Expression:
    """Weights over tensors that are themselves expressions: ``tensors`` gives each that ``weights`` fetches."""

    def expression(role: str, shape: tuple[int, ...], fetch: Fetch) -> Value:
        def made(key: str, *sizes: int) -> Value:
            return tensors(key, sizes, fetch)

        return weights(role, shape, made)

    return expression


def mismatch(key: str, have: TensorType, shape: tuple[int, ...]) -> TrtcError:
    """The error where a tensor has another shape than the config asks for."""
    want, note = TensorType(have.dtype, shape), "help: the tensors and the config are of different models"
    return TrtcError(f"tensor {key} is {have}, but the config asks for {want}", note)


def joined(source: Source, pieces: Mapping[str, Pieces]) -> Expression:
    """The tensors of a source by key; those in pieces are ``reshape(concat(pieces))``."""

    def tensor(key: str, shape: tuple[int, ...], fetch: Fetch) -> Value:
        if key not in pieces:
            return fetch(key, *shape)
        stored, types = pieces[key], [source.type(part) for part in pieces[key].keys]
        if stored.shape != shape:
            raise mismatch(key, TensorType(types[0].dtype, stored.shape), shape)
        parts = tuple(fetch(part, *type.shape) for part, type in zip(stored.keys, types, strict=True))
        return Reshape(Concat(parts, 0), shape)

    return tensor
