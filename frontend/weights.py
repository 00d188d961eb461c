"""Weights by role: expressions over a checkpoint's tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from trtc.errors import TrtcError
from trtc.ir.op import Array, Value
from trtc.ir.ops import Cast, Weight
from trtc.ir.types import DType, TensorType, bf16, f16, f32

PLAIN = (f32, f16, bf16)   # what needs no scales beside it
Fetch = Callable[..., Weight]
"""A tensor of the checkpoint, of a shape: ``fetch("lm_head.weight", V, H)``."""
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

    def __call__(self, role: str, *shape: int) -> Value:
        """The weight of a role, of this shape; an error that names the tensor, both shapes and the role."""

        def fetch(key: str, *sizes: int) -> Weight:
            return self._fetch(role, key, sizes)

        weight = self.expression(role, shape, fetch)
        return weight if weight.dtype == self.dtype else Cast(weight, self.dtype)

    def _fetch(self, role: str, key: str, shape: tuple[int, ...]) -> Weight:
        stored = self.source.type(key)
        if stored.shape != shape:
            want, note = TensorType(stored.dtype, shape), "help: the tensors and the config are of different models"
            raise TrtcError(f"tensor {key} is {stored}, but the config asks for {want}", f"it is {role}", note)
        if stored.dtype not in PLAIN:
            want = ", ".join(d.name for d in PLAIN)
            raise TrtcError(f"tensor {key} is {stored}, but must be one of {want}", f"it is {role}")
        return Weight(key, stored)


def named(names: Mapping[str, str]) -> Callable[[str], str]:
    """The checkpoint's key of a role, by a table of names less their last part; ``{n}`` stands for the layer.

    >>> named({"transformer.layers.{n}.mlp.fc": "model.layers.{n}.w1"})("transformer.layers.3.mlp.fc.weight")
    'model.layers.3.w1.weight'
    """

    def key(role: str) -> str:
        layer = re.search(r"\.layers\.(\d+)\.", role)
        general = role.replace(layer[0], ".layers.{n}.") if layer else role
        stem, _, kind = general.rpartition(".")
        return f"{names[stem]}.{kind}".replace("{n}", layer[1] if layer else "")

    return key
