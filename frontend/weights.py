"""Weights by role: a family's names over a checkpoint's tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from trtc.errors import TrtcError
from trtc.ir.op import Array, Value
from trtc.ir.ops import Cast, Weight
from trtc.ir.types import DType, TensorType, bf16, f16, f32

PLAIN = (f32, f16, bf16)   # what needs no scales beside it

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
        key: the key in the checkpoint of each role.
        dtype: what every weight is cast to.
    """

    def __init__(self, source: Source, key: Callable[[str], str], dtype: DType) -> None:
        self.source, self.key, self.dtype = source, key, dtype

    def __call__(self, role: str, *shape: int) -> Value:
        """The weight of a role, of this shape; an error that names the tensor, both shapes and the role."""
        key = self.key(role)
        stored = self.source.type(key)
        if stored.shape != shape:
            want, note = TensorType(stored.dtype, shape), "help: the tensors and config.json are of different models"
            raise TrtcError(f"tensor {key} is {stored}, but the config asks for {want}", f"it is {role}", note)
        if stored.dtype not in PLAIN:
            want = ", ".join(d.name for d in PLAIN)
            raise TrtcError(f"tensor {key} is {stored}, but must be one of {want}", f"it is {role}")
        weight = Weight(key, stored)
        return weight if stored.dtype == self.dtype else Cast(weight, self.dtype)

