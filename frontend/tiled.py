"""Boxes of tensors as expressions over the parts that files keep."""

from __future__ import annotations

import math
from collections.abc import Mapping

from trtc.errors import TrtcError
from trtc.frontend.sources.tiles import Cut, Joint, Sizes, Tiles, plan
from trtc.frontend.weights import Fetch, Source, mismatch
from trtc.ir.op import Value
from trtc.ir.ops import Concat, Reshape, Slice
from trtc.ir.types import TensorType


class Boxes:
    """The tensors of a source, whole or cut: only the parts that a box meets are read.

    Args:
        tiles: of the tensors that are not in one piece.
    """

    def __init__(self, source: Source, tiles: Mapping[str, Tiles]) -> None:
        self.source, self.tiles = source, tiles

    def __contains__(self, key: object) -> bool:
        return key in self.tiles or key in self.source

    def type(self, key: str) -> TensorType:
        """The type of a whole tensor."""
        if key not in self.tiles:
            return self.source.type(key)
        stored = self.tiles[key]
        return TensorType(self.source.type(stored.tiles[0].key).dtype, stored.shape)

    def whole(self, key: str, shape: Sizes, fetch: Fetch) -> Value:
        """All of a tensor of this shape."""
        return self.at(key, (), shape, fetch)

    def at(self, key: str, index: Sizes, shape: Sizes, fetch: Fetch, of: Sizes = ()) -> Value:
        """``tensor[index]``: what lies at an index of the first axes.

        Args:
            shape: of the result.
            of: the sizes of the first axes.
        """
        if key not in self.tiles:
            return _element(fetch(key, *of, *shape), index, shape)
        stored, want = self.tiles[key], (*of, *shape)
        if stored.shape != want:
            raise mismatch(key, self.type(key), want)
        start, stop = (*index, *(0 for _ in shape)), (*(i + 1 for i in index), *shape)
        try:
            made = self._made(plan(stored.near(start, stop), start, stop), fetch)
        except ValueError as error:
            again = "help: fetch the checkpoint again"
            raise TrtcError(f"tensor {key} cannot be put together: {error}", again) from None
        return Reshape(made, shape) if index else made

    def _made(self, part: Joint | Cut, fetch: Fetch) -> Value:
        if isinstance(part, Joint):
            return Concat(tuple(self._made(inner, fetch) for inner in part.parts), part.axis)
        value: Value = fetch(part.tile.key, *self.source.type(part.tile.key).shape)
        for axis, (start, size) in enumerate(zip(part.start, part.sizes, strict=True)):
            if value.shape[axis] != size:
                value = Slice(value, axis, start, size)
        return value


def _element(value: Value, index: Sizes, shape: Sizes) -> Value:
    for axis, at in enumerate(index):
        value = Slice(value, axis, at, 1)
    return Reshape(value, shape) if index and math.prod(shape) else value
