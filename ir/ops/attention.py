"""Attention over a KV cache, and the cache's update."""

from __future__ import annotations

import numpy as np

from trtc.ir.op import Array, Op, Value, require
from trtc.ir.ops.elementwise import (
    Add,
    And,
    Cast,
    Less,
    LessEqual,
    Maximum,
    Minimum,
    Mul,
    Sub,
    Tanh,
    Where,
    broadcast,
    same_float,
    wide,
)
from trtc.ir.ops.leaves import Iota, SizeOf, scalar
from trtc.ir.ops.linear import MatMul
from trtc.ir.ops.reduce import Softmax
from trtc.ir.ops.shape import Gather, Reshape, Transpose
from trtc.ir.types import DType, TensorType, bool_, f32, i32


class Attention(Op, name="attention"):
    """Scaled dot-product attention of S new tokens over T keys, with grouped heads and sequences of any length.

        y = softmax(cap(scale * q @ k.T) + slope * (j - p) where visible, else -inf) @ v
        cap(x) = softcap * tanh(x / softcap)

    Token s of a sequence stands at position ``p = length - S + s`` and sees key j if ``j < length``, and ``j <= p``
    (causal), and ``j > p - window``, and mask. Every token must see one key at least.

    Operands:
        q: float[B, Hq, S, D].
        k: float[B, Hkv, T, D]; Hq is a multiple of Hkv, and head h reads key head ``h // (Hq / Hkv)``.
        v: float[B, Hkv, T, E].
        lengths: i32[B], keys of each sequence, new tokens included, in S..T; T where absent.
        mask: bool, broadcasts to [B, Hq, S, T], or none.
        slopes: f32[Hq], by which a head's scores rise from each key to the next (ALiBi), or none.
    Attributes:
        scale: of the scores; 1/sqrt(D) in most models.
        causal: a token sees itself and what came before it.
        window: how many keys a token sees at most, itself included; 0 for all.
        softcap: bound of the scores' size; 0 for none.
    Result:
        float[B, Hq, S, E], of q's dtype. Scores and softmax are taken in f32.
    Source:
        Vaswani et al., 2017, arXiv:1706.03762; grouped heads: Ainslie et al., 2023, arXiv:2305.13245; slopes: Press et
        al., ALiBi, 2021, arXiv:2108.12409.
    """

    q: Value
    k: Value
    v: Value
    lengths: Value | None = None
    mask: Value | None = None
    slopes: Value | None = None
    scale: float = 1.0
    causal: bool = True
    window: int = 0
    softcap: float = 0.0

    def infer(self) -> TensorType:
        dtype = same_float(self.q, self.k, self.v)
        for name, value in (("q", self.q), ("k", self.k), ("v", self.v)):
            require(value.type.rank == 4, f"{name} has rank {value.type.rank}, but must have rank 4")
        (batch, heads, tokens, head), (kv_batch, kv_heads, keys, k_head) = self.q.shape, self.k.shape
        scores = (batch, heads, tokens, keys)
        require(head == k_head, f"q has head size {head}, but k has {k_head}")
        require(batch == kv_batch, f"q has batch {batch}, but k has {kv_batch}")
        require(self.v.shape[:3] == self.k.shape[:3], f"k is {self.k.type}, but v is {self.v.type}")
        grouped = isinstance(heads, int) and isinstance(kv_heads, int) and heads % kv_heads == 0
        require(grouped, f"q has {heads} heads, which is no multiple of the {kv_heads} of k")
        require(self.window >= 0, f"window is {self.window}, but must not be negative")
        require(self.softcap >= 0, f"softcap is {self.softcap:g}, but must not be negative")
        if self.lengths:
            require(self.lengths.type == i32[batch], f"lengths is {self.lengths.type}, but must be {i32[batch]}")
        if self.mask:
            require(self.mask.dtype == bool_, f"mask is {self.mask.dtype}, but must be bool")
            fits = broadcast(self.mask.shape, scores) == scores
            require(fits, f"mask is {self.mask.type}, but must broadcast to {TensorType(bool_, scores)}")
        if self.slopes:
            require(self.slopes.type == f32[heads], f"slopes is {self.slopes.type}, but must be {f32[heads]}")
        return TensorType(dtype, (batch, heads, tokens, self.v.shape[3]))

    def evaluate(
        self, q: Array, k: Array, v: Array, lengths: Array | None, mask: Array | None, slopes: Array | None
    ) -> Array:
        (batch, heads, tokens, head), (_, kv_heads, keys, out) = q.shape, v.shape
        grouped = wide(q).reshape(batch, kv_heads, heads // kv_heads, tokens, head)
        scores: Array = np.matmul(grouped, wide(k)[:, :, None].swapaxes(-1, -2)) * self.scale
        if self.softcap:
            scores = np.tanh(scores / self.softcap) * self.softcap
        scores = scores.reshape(batch, heads, tokens, keys)
        away, seen = self._seen((batch, tokens, keys), lengths)
        if slopes is not None:
            scores = scores + slopes[:, None, None] * away
        scores = np.where(seen if mask is None else seen & mask, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights = (weights / weights.sum(-1, keepdims=True)).reshape(batch, kv_heads, -1, tokens, keys)
        return np.matmul(weights, wide(v)[:, :, None]).reshape(batch, heads, tokens, out).astype(q.dtype)

    def _seen(self, sizes: tuple[int, int, int], lengths: Array | None) -> tuple[Array, Array]:
        """How far each key stands after each token, f32[B, 1, S, T]; whether the token sees it, but for the mask."""
        batch, tokens, keys = sizes
        length: Array = np.full(batch, keys) if lengths is None else lengths
        place: Array = (length[:, None] - tokens + np.arange(tokens))[:, None, :, None]
        key: Array = np.arange(keys)
        seen: Array = key < length[:, None, None, None]
        if self.causal:
            seen = seen & (key <= place)
        if self.window:
            seen = seen & (key > place - self.window)
        return (key - place).astype(np.float32), seen

    def decompose(self) -> Value:
        (batch, heads, tokens, head), (_, kv_heads, keys, out) = self.q.shape, self.v.shape
        assert isinstance(heads, int) and isinstance(kv_heads, int)
        grouped = Reshape(self.q, (batch, kv_heads, heads // kv_heads, tokens, head))
        k = Reshape(Transpose(self.k, (0, 1, 3, 2)), (batch, kv_heads, 1, head, keys))
        scores = Reshape(MatMul(grouped, k), (batch, heads, tokens, keys))
        if self.slopes:   # which grow with the distance, beyond what 16 bits hold exactly
            scores = _cast(scores, f32)
        scores = Mul(scores, scalar(self.scale, scores.dtype))
        if self.softcap:
            scores = soft_cap(scores, self.softcap)
        if self.slopes:
            away = Cast(Sub(Iota(keys), self._places()), f32)
            scores = Add(scores, Mul(Reshape(self.slopes, (heads, 1, 1)), away))
        visible = self.visible()
        if visible:
            scores = Where(visible, scores, scalar(-np.inf, scores.dtype))
        weights = Reshape(_cast(Softmax(scores, 3), self.q.dtype), (batch, kv_heads, heads // kv_heads, tokens, keys))
        y = MatMul(weights, Reshape(self.v, (batch, kv_heads, 1, keys, out)))
        return Reshape(y, (batch, heads, tokens, out))

    def visible(self) -> Value | None:
        """bool, broadcasts to [B, Hq, S, T]: which keys each token sees; None for all."""
        key, place = Iota(self.k.shape[2]), self._places()
        conditions: list[Value] = [LessEqual(key, place)] if self.causal else []
        if self.lengths and not self.causal:   # a causal token sees nothing beyond the length
            conditions.append(Less(key, Reshape(self.lengths, (self.q.shape[0], 1, 1, 1))))
        if self.window:
            conditions.append(Less(Sub(place, scalar(self.window, i32)), key))
        if self.mask:
            conditions.append(self.mask)
        visible = conditions[0] if conditions else None
        for condition in conditions[1:]:
            visible = And(visible, condition) if visible else condition
        return visible

    def _places(self) -> Value:
        """i32[B or 1, 1, S, 1], where each token stands."""
        tokens = self.q.shape[2]
        length = self.lengths or Reshape(SizeOf(self.k, 2), (1,))
        first = Sub(Reshape(length, (*length.shape, 1)), SizeOf(self.q, 2))
        return Reshape(Add(first, Iota(tokens)), (*length.shape, 1, tokens, 1))


def _cast(x: Value, dtype: DType) -> Value:
    return x if x.dtype == dtype else Cast(x, dtype)


def soft_cap(scores: Value, cap: float) -> Value:
    """``cap * tanh(scores / cap)``."""
    return Mul(Tanh(Mul(scores, scalar(1 / cap, scores.dtype))), scalar(cap, scores.dtype))


class KVCacheUpdate(Op, name="kv_cache_update"):
    """Write the keys (or values) of S new tokens into a cache, for each sequence from its own position on.

        y[b, h, start[b] + s, :] = new[b, h, s, :],   and y = cache elsewhere

    Operands:
        cache: float[B, H, M, D], of capacity M.
        new: float[B, H, S, D].
        start: i32[B], tokens already there; ``start + S <= M`` is the caller's promise.
    Result:
        cache's type. Where the cache is a graph input and the result the output of its name, it is updated in place.
    """

    cache: Value
    new: Value
    start: Value

    def infer(self) -> TensorType:
        same_float(self.cache, self.new)
        require(self.cache.type.rank == 4, f"cache has rank {self.cache.type.rank}, but must have rank 4")
        batch, heads, _, head = self.cache.shape
        got = (self.new.shape[:2], self.new.shape[3:])
        require(got == ((batch, heads), (head,)), f"new is {self.new.type}, but the cache is {self.cache.type}")
        require(self.start.type == i32[batch], f"start is {self.start.type}, but must be {i32[batch]}")
        return self.cache.type

    def evaluate(self, cache: Array, new: Array, start: Array) -> Array:
        return appended(cache, new, start)

    def decompose(self) -> Value:
        batch, _, capacity, _ = self.cache.shape
        offset = Sub(Iota(capacity), Reshape(self.start, (batch, 1)))   # i32[B, M]: which new token lands in each slot
        zero, tokens = scalar(0, i32), SizeOf(self.new, 2)
        lands = And(LessEqual(zero, offset), Less(offset, tokens))
        source = Minimum(Maximum(offset, zero), Sub(tokens, scalar(1, i32)))
        moved = Gather(self.new, source, axis=2, batch=1)
        return Where(Reshape(lands, (batch, 1, capacity, 1)), moved, self.cache)


def appended(cache: Array, new: Array, start: Array) -> Array:
    """A copy of a cache with rows of new tokens from ``start`` of each sequence on, as far as there is room."""
    updated, tokens = cache.copy(), new.shape[2]
    for b, first in enumerate(start):
        room = max(0, min(tokens, cache.shape[2] - int(first)))
        updated[b, :, first : first + room] = new[b, :, :room]
    return updated
