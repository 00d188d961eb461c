"""Attention and cache updates of packed tokens: those of all sequences in one row, without padding between."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from trtc.ir.op import Array, Op, Value, require
from trtc.ir.ops.attention import Attention
from trtc.ir.ops.elementwise import same_float
from trtc.ir.ops.leaves import Input
from trtc.ir.types import DTYPES, Size, TensorType, f32, i32


class PackedAttention(Op, name="packed_attention"):
    """Causal attention of packed tokens over the padded keys of their sequences.

        y[starts[b] + s] = attention(q[starts[b]:starts[b + 1]], k[b], v[b], lengths[b])[s]

    with ``attention`` as in the op of that name.

    Operands:
        q: float[T, Hq, D], tokens of all sequences in order.
        k: float[B, Hkv, M, D].
        v: float[B, Hkv, M, E].
        starts: i32[B + 1], where the tokens of each sequence begin; the last is T.
        lengths: i32[B], keys of each sequence, new tokens included.
        slopes: f32[Hq], or none.
    Attributes:
        scale, window, softcap: as of attention.
    Result:
        float[T, Hq, E], of q's dtype.
    """

    q: Value
    k: Value
    v: Value
    starts: Value
    lengths: Value
    slopes: Value | None = None
    scale: float = 1.0
    window: int = 0
    softcap: float = 0.0

    def infer(self) -> TensorType:
        require(self.q.type.rank == 3, f"q has rank {self.q.type.rank}, but must have rank 3")
        tokens, heads, head = self.q.shape
        _starts(self.starts, self.k.shape[0])
        padded = TensorType(self.q.dtype, (self.k.shape[0], heads, tokens, head))
        one = self._attention(Input("q", padded), self.k, self.v, self.lengths, self.slopes)
        return TensorType(one.dtype, (tokens, heads, one.shape[3]))

    def _attention(self, *operands: Value | None) -> Attention:
        """The op on padded tokens: of q, k, v, lengths and slopes."""
        names = ("q", "k", "v", "lengths", "slopes")
        named: dict[str, Any] = dict(zip(names, operands, strict=True))
        return Attention(**named, scale=self.scale, window=self.window, softcap=self.softcap)

    def evaluate(self, q: Array, k: Array, v: Array, starts: Array, lengths: Array, slopes: Array | None) -> Array:
        rows: list[Array] = []
        for b, (first, last) in enumerate(pairwise(starts)):
            one = q[first:last].swapaxes(0, 1)[None], k[b : b + 1], v[b : b + 1], lengths[b : b + 1]
            whole = self._attention(*map(_given, one), None if slopes is None else _given(slopes))
            rows.append(whole.evaluate(*one, None, slopes)[0].swapaxes(0, 1))
        return np.concatenate(rows)


class PackedKVCacheUpdate(Op, name="packed_kv_cache_update"):
    """Write the keys (or values) of packed tokens into a cache, for each sequence from its own position on.

        y[b, h, start[b] + s, :] = new[starts[b] + s, h, :],   and y = cache elsewhere

    Operands:
        cache: float[B, H, M, D], of capacity M.
        new: float[T, H, D].
        start: i32[B], tokens already there.
        starts: i32[B + 1], where the tokens of each sequence begin in ``new``; the last is T.
    Result:
        cache's type; updated in place as by kv_cache_update.
    """

    cache: Value
    new: Value
    start: Value
    starts: Value

    def infer(self) -> TensorType:
        same_float(self.cache, self.new)
        require(self.cache.type.rank == 4, f"cache has rank {self.cache.type.rank}, but must have rank 4")
        batch, heads, _, head = self.cache.shape
        fits = self.new.type.rank == 3 and self.new.shape[1:] == (heads, head)
        require(fits, f"new is {self.new.type}, but the cache is {self.cache.type}")
        require(self.start.type == i32[batch], f"start is {self.start.type}, but must be {i32[batch]}")
        _starts(self.starts, batch)
        return self.cache.type

    def evaluate(self, cache: Array, new: Array, start: Array, starts: Array) -> Array:
        updated = cache.copy()
        for b, (first, last) in enumerate(pairwise(starts)):
            room = max(0, min(int(last - first), cache.shape[2] - int(start[b])))
            updated[b, :, start[b] : start[b] + room] = new[first : first + room].swapaxes(0, 1)
        return updated


def _starts(starts: Value, batch: Size) -> None:
    want = i32[batch + 1]
    require(starts.type == want, f"starts is {starts.type}, but must be {want}")


def _given(array: Array) -> Input:
    """A stand-in for an array, of its type."""
    dtype = next((d for d in DTYPES.values() if d.numpy == array.dtype), f32)
    return Input("x", TensorType(dtype, array.shape))
