"""What a step does with keys and values: turned and written, then attended to, in a linear or a paged cache."""

from __future__ import annotations

import numpy as np

from trtc.backend.fused import turned_heads
from trtc.ir.op import Array, Op, Value, require
from trtc.ir.ops import (
    Add,
    Attention,
    Input,
    Iota,
    KVCacheUpdate,
    Less,
    Reshape,
    Rope,
    SizeOf,
    Transpose,
    Where,
    scalar,
    wide,
)
from trtc.ir.types import DType, Size, TensorType, f8e4m3, f32, i8, i32

PAGE = 64   # tokens of a page
CACHED = (i8, f8e4m3)   # element types of a cache that have scales


class RopeAndAppend(Op, name="cuda.rope_and_append"):
    """Turn q and k by their positions, and write k and v into the caches.

    Token s of sequence b stands at position ``start[b] + s``. Row p of the tables is the angle of position p.

    Operands:
        qkv: float[B, S, (Hq + 2 * Hkv) * D], the heads of q, then of k, then of v.
        key_cache, value_cache: [B, Hkv, M, D], or where there are pages [P, Hkv, 64, D]; of qkv's dtype, i8 or f8e4m3.
        start: i32[B], tokens already there; ``start + S`` must not exceed the capacity.
        cos, sin: f32[P, R/2], rounded to qkv's dtype; none for no rotation.
        pages: i32[B, N], where each sequence's tokens 64 * n to 64 * n + 63 are, or none.
        key_scale, value_scale: f32[Hkv], by which i8 and f8e4m3 are multiplied; none otherwise.
    Attributes:
        heads, kv_heads: Hq and Hkv.
        interleaved: as of rope.
    Result:
        float[B, S, Hq * D], q turned; then the two caches, written in place.
    """

    qkv: Value
    key_cache: Value
    value_cache: Value
    start: Value
    cos: Value | None = None
    sin: Value | None = None
    pages: Value | None = None
    key_scale: Value | None = None
    value_scale: Value | None = None
    heads: int = 1
    kv_heads: int = 1
    interleaved: bool = False

    def infer(self) -> tuple[TensorType, TensorType, TensorType]:
        require(self.qkv.type.rank == 3, f"qkv has rank {self.qkv.type.rank}, but must have rank 3")
        batch, tokens, _ = self.qkv.shape
        size = check_caches(self, self.qkv.dtype, batch)
        want = self.qkv.dtype[batch, tokens, (self.heads + 2 * self.kv_heads) * size]
        require(self.qkv.type == want and want.dtype.is_float, f"qkv is {self.qkv.type}, but must be {want}")
        require(self.start.type == i32[batch], f"start is {self.start.type}, but must be {i32[batch]}")
        if self.cos or self.sin:
            got = [str(x.type) if x else "absent" for x in (self.cos, self.sin)]
            require(got[0] == got[1], f"cos is {got[0]}, but sin is {got[1]}")
            assert self.cos
            fits = self.cos.dtype == f32 and self.cos.type.rank == 2 and isinstance(self.cos.shape[1], int)
            fits = fits and 2 * int(str(self.cos.shape[1])) <= size
            require(fits, f"cos is {got[0]}, but must be f32[P, R/2], R <= {size}")
        return self.qkv.dtype[batch, tokens, self.heads * size], self.key_cache.type, self.value_cache.type

    def evaluate(
        self, qkv: Array, key_cache: Array, value_cache: Array, start: Array, *rest: Array | None
    ) -> tuple[Array, ...]:
        cos, sin, pages, key_scale, value_scale = rest
        batch, tokens, _ = qkv.shape
        size = key_cache.shape[3]
        heads = qkv.reshape(batch, tokens, -1, size)
        q, k, v = np.split(heads, (self.heads, self.heads + self.kv_heads), axis=2)
        if cos is not None and sin is not None:
            at: Array = start[:, None] + np.arange(tokens, dtype=np.int32)
            q, k = (self._turned(x, cos[at].astype(qkv.dtype), sin[at].astype(qkv.dtype)) for x in (q, k))
        keys, values = key_cache.copy(), value_cache.copy()
        for cache, new, scale in ((keys, k, key_scale), (values, v, value_scale)):
            new = new if scale is None else quantized(new, scale[:, None], self.key_cache.dtype)
            for b in range(batch):
                for s in range(tokens):
                    row, slot = place(pages, b, int(start[b]) + s)
                    if slot < cache.shape[2]:
                        cache[row, :, slot] = new[b, s]
        return q.reshape(batch, tokens, -1), keys, values

    def _turned(self, x: Array, cos: Array, sin: Array) -> Array:
        """Heads [B, S, N, D] turned, as rope says."""
        like, angles = Input("x", f32[1, 1, 1, x.shape[3]]), Input("angles", f32[1, 1, cos.shape[2]])
        return Rope(like, angles, angles, self.interleaved).evaluate(x.swapaxes(1, 2), cos, sin).swapaxes(1, 2)

    def decompose(self) -> tuple[Value, ...] | None:
        if self.pages or self.key_scale:
            return None
        batch, tokens, _ = self.qkv.shape
        size = self.key_cache.shape[3]
        assert isinstance(size, int)
        q, k, v = turned_heads(
            self.qkv, self.start, self.cos, self.sin,
            heads=self.heads, kv_heads=self.kv_heads, size=size, interleaved=self.interleaved,
        )   # fmt: skip
        flat = Reshape(Transpose(q, (0, 2, 1, 3)), (batch, tokens, self.heads * size))
        return flat, KVCacheUpdate(self.key_cache, k, self.start), KVCacheUpdate(self.value_cache, v, self.start)


class DecodeAttention(Op, name="cuda.decode_attention"):
    """Attention of one new token a sequence over a cache that holds it already.

    The token stands at position ``length - 1`` and sees key j if ``j < length`` and ``j >= length - window``.

    Operands:
        q: float[B, 1, Hq * D], turned.
        key_cache, value_cache, pages, key_scale, value_scale: as of cuda.rope_and_append.
        lengths: i32[B], keys of each sequence; the result of one without keys is zeros.
        slopes: f32[Hq], as of attention, or none.
    Attributes:
        heads, kv_heads: Hq and Hkv.
        scale, window, softcap: as of attention.
    Result:
        float[B, 1, Hq * D], of q's dtype.
    """

    q: Value
    key_cache: Value
    value_cache: Value
    lengths: Value
    pages: Value | None = None
    slopes: Value | None = None
    key_scale: Value | None = None
    value_scale: Value | None = None
    heads: int = 1
    kv_heads: int = 1
    scale: float = 1.0
    window: int = 0
    softcap: float = 0.0

    def infer(self) -> TensorType:
        return check_attention(self, 1)

    def evaluate(self, q: Array, key_cache: Array, value_cache: Array, lengths: Array, *rest: Array | None) -> Array:
        return attended(self, q, (key_cache, value_cache), lengths - 1, np.minimum(lengths, 1), *rest)

    def decompose(self) -> Value | None:
        if self.pages or self.key_scale:
            return None
        batch, size = self.q.shape[0], self.key_cache.shape[3]
        q = Reshape(self.q, (batch, self.heads, 1, size))
        y = Attention(
            q, self.key_cache, self.value_cache, self.lengths, None, self.slopes,
            scale=self.scale, window=self.window, softcap=self.softcap,
        )   # fmt: skip
        return Reshape(y, self.q.shape)


class AppendAndAttend(Op, name="cuda.append_and_attend"):
    """Turn q and k of one new token a sequence, write k and v into the caches, and attend to what they hold.

    y, keys, values = decode_attention(rope_and_append(qkv)), over ``start + lengths`` keys.

    Operands:
        qkv, key_cache, value_cache, start, cos, sin, pages, key_scale, value_scale: as of cuda.rope_and_append, S = 1.
        lengths: i32[B], whether each sequence sees its new token, 0 or 1; it does where absent.
        slopes: f32[Hq], as of attention, or none.
    Attributes:
        heads, kv_heads, interleaved: as of cuda.rope_and_append.
        scale, window, softcap: as of attention.
    Result:
        float[B, 1, Hq * D]; then the two caches, written in place.
    """

    qkv: Value
    key_cache: Value
    value_cache: Value
    start: Value
    cos: Value | None = None
    sin: Value | None = None
    lengths: Value | None = None
    pages: Value | None = None
    slopes: Value | None = None
    key_scale: Value | None = None
    value_scale: Value | None = None
    heads: int = 1
    kv_heads: int = 1
    interleaved: bool = False
    scale: float = 1.0
    window: int = 0
    softcap: float = 0.0

    def infer(self) -> tuple[TensorType, TensorType, TensorType]:
        if self.lengths:
            got, want = self.lengths.type, self.start.type
            require(got == want, f"lengths is {got}, but must be {want}")
        y, keys, values = self.decompose()
        return y.type, keys.type, values.type

    def decompose(self) -> tuple[Value, Value, Value]:
        made = RopeAndAppend(
            self.qkv, self.key_cache, self.value_cache, self.start, self.cos, self.sin, self.pages,
            self.key_scale, self.value_scale, self.heads, self.kv_heads, self.interleaved,
        )   # fmt: skip
        _, keys, values = made.results
        y = DecodeAttention(
            made, keys, values, Add(self.start, self.lengths or scalar(1, i32)), self.pages, self.slopes,
            self.key_scale, self.value_scale, self.heads, self.kv_heads, self.scale, self.window, self.softcap,
        )   # fmt: skip
        return y, keys, values


class PrefillAttention(Op, name="cuda.prefill_attention"):
    """Attention of new tokens of each sequence over a cache that holds them already.

    Token s of sequence b stands at position ``p = start[b] + s``, and sees key j if ``j <= p`` and ``j > p - window``.

    Operands:
        q: float[B, S, Hq * D], turned.
        key_cache, value_cache, pages, key_scale, value_scale: as of cuda.rope_and_append.
        start: i32[B], tokens of each sequence before the new ones.
        lengths: i32[B], new tokens of each sequence, in 0..S; ``start + lengths`` must not exceed the capacity.
        slopes: f32[Hq], as of attention, or none.
    Attributes:
        heads, kv_heads: Hq and Hkv.
        scale, window, softcap: as of attention.
    Result:
        float[B, S, Hq * D], of q's dtype; zeros from token ``lengths[b]`` on.
    """

    q: Value
    key_cache: Value
    value_cache: Value
    start: Value
    lengths: Value
    pages: Value | None = None
    slopes: Value | None = None
    key_scale: Value | None = None
    value_scale: Value | None = None
    heads: int = 1
    kv_heads: int = 1
    scale: float = 1.0
    window: int = 0
    softcap: float = 0.0

    def infer(self) -> TensorType:
        found = check_attention(self)
        want = self.lengths.type
        require(self.start.type == want, f"start is {self.start.type}, but must be {want}")
        return found

    def evaluate(
        self, q: Array, key_cache: Array, value_cache: Array, start: Array, lengths: Array, *rest: Array | None
    ) -> Array:
        return attended(self, q, (key_cache, value_cache), start, lengths, *rest)

    def decompose(self) -> Value | None:
        if self.pages or self.key_scale:
            return None
        (batch, tokens, _), size = self.q.shape, self.key_cache.shape[3]
        q = Transpose(Reshape(self.q, (batch, tokens, self.heads, size)), (0, 2, 1, 3))
        y = Attention(
            q, self.key_cache, self.value_cache, Add(self.start, SizeOf(self.q, 1)), None, self.slopes,
            scale=self.scale, window=self.window, softcap=self.softcap,
        )   # fmt: skip
        real = Less(Reshape(Iota(tokens), (tokens, 1)), Reshape(self.lengths, (batch, 1, 1)))
        flat = Reshape(Transpose(y, (0, 2, 1, 3)), self.q.shape)
        return Where(real, flat, scalar(0, self.q.dtype))


def check_attention(op: DecodeAttention | PrefillAttention, tokens: Size | None = None) -> TensorType:
    """The type of the result, if operands and attributes fit each other and q's tokens, where they are given."""
    require(op.q.type.rank == 3, f"q has rank {op.q.type.rank}, but must have rank 3")
    batch = op.q.shape[0]
    size = check_caches(op, op.q.dtype, batch)
    want = op.q.dtype[batch, op.q.shape[1] if tokens is None else tokens, op.heads * size]
    require(op.q.type == want and want.dtype.is_float, f"q is {op.q.type}, but must be {want}")
    require(op.lengths.type == i32[batch], f"lengths is {op.lengths.type}, but must be {i32[batch]}")
    if op.slopes:
        want = f32[op.heads,]
        require(op.slopes.type == want, f"slopes is {op.slopes.type}, but must be {want}")
    require(op.window >= 0, f"window is {op.window}, but must not be negative")
    require(op.softcap >= 0, f"softcap is {op.softcap:g}, but must not be negative")
    return op.q.type


def attended(
    op: DecodeAttention | PrefillAttention, q: Array, caches: tuple[Array, Array], start: Array, lengths: Array,
    pages: Array | None, slopes: Array | None, key_scale: Array | None, value_scale: Array | None,
) -> Array:   # fmt: skip
    """Attention of each sequence's new tokens, from position ``start`` on, by itself."""
    size = op.key_cache.shape[3]
    assert isinstance(size, int)
    query, keys = Input("q", f32[1, op.heads, "S", size]), Input("k", f32[1, op.kv_heads, "T", size])
    whole = Attention(query, keys, keys, scale=op.scale, window=op.window, softcap=op.softcap)
    out = np.zeros_like(q)
    for b, new in ((b, int(n)) for b, n in enumerate(lengths) if n > 0):
        end = int(start[b]) + new
        row, slot = (np.array(x) for x in zip(*(place(pages, b, p) for p in range(end)), strict=True))
        k, v = (_read(c[row, :, slot], s, q) for c, s in zip(caches, (key_scale, value_scale), strict=True))
        heads = q[b, :new].reshape(1, new, op.heads, size).swapaxes(1, 2)
        y = whole.evaluate(heads, k, v, np.array([end]), None, slopes)
        out[b, :new] = y[0].swapaxes(0, 1).reshape(new, -1)
    return out


def check_caches(op: RopeAndAppend | DecodeAttention | PrefillAttention, dtype: DType, batch: Size) -> int:
    """The head size, if caches, pages and scales fit each other."""
    cache = op.key_cache
    require(cache.type.rank == 4, f"key_cache has rank {cache.type.rank}, but must have rank 4")
    require(op.value_cache.type == cache.type, f"key_cache is {cache.type}, but value_cache is {op.value_cache.type}")
    first, heads, slots, size = cache.shape
    require(isinstance(size, int), f"key_cache is {cache.type}, but its head size must be known")
    require(heads == op.kv_heads, f"key_cache has {heads} heads, but kv_heads is {op.kv_heads}")
    grouped = op.kv_heads > 0 and op.heads % op.kv_heads == 0
    require(grouped, f"heads is {op.heads}, which is no multiple of kv_heads, {op.kv_heads}")
    if op.pages:
        fits = op.pages.dtype == i32 and op.pages.type.rank == 2 and op.pages.shape[0] == batch
        require(fits, f"pages is {op.pages.type}, but must be {i32[batch, 'N']}")
        require(slots == PAGE, f"key_cache has {slots} tokens a page, but must have {PAGE}")
    else:
        require(first == batch, f"key_cache has batch {first}, but must have {batch}")
    known = cache.dtype == dtype or cache.dtype in CACHED
    require(known, f"key_cache is {cache.dtype}, but must be {dtype}, i8 or f8e4m3")
    for name, value in (("key_scale", op.key_scale), ("value_scale", op.value_scale)):
        got, want = str(value.type) if value else "absent", str(f32[op.kv_heads,]) if cache.dtype != dtype else "absent"
        require(got == want, f"{name} is {got}, but must be {want}")
    assert isinstance(size, int)
    return size


def place(pages: Array | None, batch: int, position: int) -> tuple[int, int]:
    """The first and the third index of a token's row in a cache."""
    return (batch, position) if pages is None else (int(pages[batch, position // PAGE]), position % PAGE)


def quantized(x: Array, scale: Array, dtype: DType) -> Array:
    """The nearest elements of 8 bits, times their scale, to x."""
    y = wide(x) / scale
    return np.clip(np.rint(y), -127, 127).astype(np.int8) if dtype == i8 else np.clip(y, -448, 448).astype(dtype.numpy)


def _read(rows: Array, scale: Array | None, q: Array) -> Array:
    """Rows of a cache [T, Hkv, D] as [1, Hkv, T, D] in q's precision or f32."""
    if scale is not None:
        rows = rows.astype(wide(q).dtype) * scale[:, None]
    return rows.swapaxes(0, 1)[None]
