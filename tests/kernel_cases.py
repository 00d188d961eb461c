"""Ops that kernels compute, with random tensors: for the laws of the ops here, and for the kernels on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np

from trtc.backend.kernels import KERNELS, Kernel
from trtc.backend.kernels import ops as fused
from trtc.ir import ops, types
from trtc.ir.op import Array, Op, Value, binding
from trtc.ir.ops import Constant, Input
from trtc.ir.types import DType, TensorType, bf16, f8e4m3, f16, f32, i4, i8, i32, i64

Random: TypeAlias = np.random.Generator
PAGE = 64


NORM = {f32: 3e-6, f16: 1e-3, bf16: 8e-3}    # of the error to that of the reference; a norm rounds three times
LARGEST = {f32: 2e-5, f16: 5e-3, bf16: 4e-2}   # of one error, to the largest element


@dataclass(frozen=True)
class Case:
    """An op over inputs, with sizes and tensors for them."""

    op: Op
    sizes: Mapping[str, int]
    tensors: Mapping[str, Array]

    def evaluate(self, precise: bool = False) -> tuple[Array, ...]:
        """The results, as the op says; with f64 instead of every other float where they are to be precise."""
        with binding(self.sizes):
            given = {v: self._array(v, precise) for v in self.op.operands.values()}
            found: Any = self.op.evaluate(*self.op.arguments(given))
        return cast("tuple[Array, ...]", found if isinstance(found, tuple) else (found,))

    def _array(self, value: Value, precise: bool) -> Array:
        if isinstance(value, Constant):
            return value.evaluate()
        assert isinstance(value, Input)
        array = self.tensors[value.key]
        scaled = value.dtype in (i8, f8e4m3) or not value.dtype.is_float
        return array if scaled or not precise else array.astype(np.float64)


class Maker:
    """Inputs under way: each gets its tensor as it is made."""

    def __init__(self, rng: Random, **sizes: int) -> None:
        self.rng, self.sizes = rng, sizes
        self.tensors: dict[str, Array] = {}

    def floats(self, key: str, of: TensorType, scale: float = 1.0) -> Input:
        shape = tuple(types.evaluate(s, self.sizes) for s in of.shape)
        return self.given(key, of, (self.rng.standard_normal(shape) * scale).astype(of.dtype.numpy))

    def integers(self, key: str, of: TensorType, low: int, high: int) -> Input:
        """Of low to high, both included."""
        shape = tuple(types.evaluate(s, self.sizes) for s in of.shape)
        return self.given(key, of, self.rng.integers(low, high + 1, shape).astype(of.dtype.numpy))

    def given(self, key: str, of: TensorType, array: Array) -> Input:
        self.tensors[key] = array
        return Input(key, of)

    def case(self, op: Op) -> Case:
        return Case(op, self.sizes, self.tensors)


def embedding(rng: Random, dtype: DType) -> Case:
    hidden = int(rng.choice((7, 48, 256, 4096)))
    make = Maker(rng, B=int(rng.integers(1, 5)), S=int(rng.integers(1, 4)))
    table = make.floats("table", dtype[33, hidden])
    return make.case(ops.Embedding(table, make.integers("ids", (i32 if hidden > 7 else i64)["B", "S"], 0, 32)))


def norm(kind: Callable[..., Op]) -> Callable[[Random, DType], Case]:
    adds, centred = kind in (fused.AddRMSNorm, fused.AddLayerNorm), kind in (ops.LayerNorm, fused.AddLayerNorm)

    def made(rng: Random, dtype: DType) -> Case:
        hidden = int(rng.choice((7, 48, 1000, 4096, 5120)))
        make = Maker(rng, B=int(rng.integers(1, 5)))
        given: dict[str, Any] = {"x": make.floats("x", dtype["B", 1, hidden]), "eps": float(rng.choice((1e-5, 0.3)))}
        given["weight"] = make.floats("weight", dtype[hidden])
        if adds:
            given["skip"] = make.floats("skip", dtype["B", 1, hidden])
        if centred and rng.random() < 0.5:
            given["bias"] = make.floats("bias", dtype[hidden])
        return make.case(kind(**given))

    return made


def argmax(rng: Random, dtype: DType) -> Case:
    make = Maker(rng, B=int(rng.integers(1, 5)))
    x = make.floats("x", dtype["B", int(rng.choice((5, 1000, 50257)))])
    return make.case(fused.ArgMax(x) if rng.random() < 0.5 else ops.TopK(x, 1))


def route(rng: Random, dtype: DType) -> Case:
    make = Maker(rng, N=int(rng.integers(1, 20)))
    experts = int(rng.choice((2, 8, 60, 128)))
    logits = make.floats("logits", dtype["N", experts])
    return make.case(fused.Route(logits, int(rng.choice((1, 2, 8))) % experts or 1, bool(rng.random() < 0.5)))


def experts(outer: bool) -> Callable[[Random, DType], Case]:
    def made(rng: Random, dtype: DType) -> Case:
        count, hidden, width = (int(rng.choice(sizes)) for sizes in ((2, 8, 20), (20, 64, 288), (12, 96, 512)))
        make = Maker(rng, N=int(rng.choice((1, 2, 9, 40))))
        many = min(count, int(rng.choice((1, 2, 4))))
        rows = np.argsort(rng.random((make.sizes["N"], count)), axis=1)[:, :many].astype(np.int32)
        chosen = make.given("chosen", i32["N", many], rows)
        if outer:
            inner, shares = make.floats("inner", dtype["N", many, width]), make.floats("shares", dtype["N", many])
            proj = make.floats("proj", dtype[count, hidden, width], width**-0.5)
            return make.case(fused.ExpertsOuter(inner, chosen, shares, proj))
        fc, gate = (make.floats(key, dtype[count, width, hidden], hidden**-0.5) for key in ("fc", "gate"))
        return make.case(fused.ExpertsInner(make.floats("x", dtype["N", hidden]), chosen, fc, gate))

    return made


def sample(rng: Random, dtype: DType) -> Case:
    make = Maker(rng, B=int(rng.integers(1, 6)))
    x = make.floats("logits", dtype["B", int(rng.choice((5, 1000, 50257)))], float(rng.choice((0.5, 3))))
    batch = make.sizes["B"]
    return make.case(fused.Sample(
        x,
        make.given("temperature", f32["B",], rng.choice(np.array((0, 0.5, 1, 2), np.float32), batch)),
        make.given("top_k", i32["B",], rng.choice(np.array((0, 1, 3, 50), np.int32), batch)),
        make.given("top_p", f32["B",], rng.choice(np.array((1, 0.95, 0.5, 0.01), np.float32), batch)),
        make.given("seed", i64["B",], rng.integers(0, 1 << 62, batch)),
        make.integers("step", i32["B",], 0, 1000),
    ))   # fmt: skip


def stop_check(rng: Random, _: DType) -> Case:
    make = Maker(rng, B=int(rng.integers(1, 300)))
    tokens, lengths = make.integers("tokens", i32["B",], 0, 9), make.integers("lengths", i32["B",], 0, 9)
    limits, stops = make.integers("limits", i32["B",], 1, 12), make.integers("stops", i32[3,], 0, 9)
    return make.case(fused.StopCheck(tokens, lengths, limits, stops, make.integers("done", i32["B",], 0, 1)))


def lengths_of(rng: Random, batch: int, capacity: int, new: int) -> Array:
    """Tokens of each sequence before ``new`` more: none, one, about the border of a page, almost full."""
    edges = [n for n in (0, 1, 15, 16, 62, 63, 64, 65, 127, 128, capacity - new) if 0 <= n <= capacity - new]
    drawn = rng.integers(0, capacity - new + 1, batch)
    return np.where(rng.random(batch) < 0.6, rng.choice(edges, batch), drawn).astype(np.int32)


class CacheMaker(Maker):
    """Caches, linear or paged, whose rows beyond the lengths are poisoned."""

    def __init__(self, rng: Random, stored: DType | None, paged: bool, new: int) -> None:
        capacity = PAGE * int(rng.integers(1, 9)) if paged else int(rng.choice((17, 64, 200, 700)))
        super().__init__(rng, B=int(rng.integers(1, 6)), M=capacity, N=capacity // PAGE)
        self.stored, self.paged = stored, paged
        self.past = lengths_of(rng, self.sizes["B"], capacity, new)

    def caches(self, dtype: DType, heads: int, size: int, filled: Array) -> tuple[dict[str, Any], dict[str, Any]]:
        """The two caches, and pages and scales as far as there are."""
        batch, capacity = self.sizes["B"], self.sizes["M"]
        stored = self.stored or dtype
        rest: dict[str, Any] = {}
        pages = None
        if self.paged:
            self.sizes["P"] = batch * self.sizes["N"] + 2
            pages = self.rng.permutation(self.sizes["P"])[: batch * self.sizes["N"]].reshape(batch, -1).astype(np.int32)
            rest["pages"] = self.given("pages", i32["B", "N"], pages)
        of = stored["P", heads, PAGE, size] if self.paged else stored["B", heads, "M", size]
        shape = tuple(types.evaluate(s, self.sizes) for s in of.shape)
        found: dict[str, Any] = {}
        for key in ("key_cache", "value_cache"):
            array = np.full(shape, 77 if stored == i8 else np.nan, np.float32)
            for b in range(batch):
                for position in range(min(int(filled[b]), capacity)):
                    at = (b, position) if pages is None else (int(pages[b, position // PAGE]), position % PAGE)
                    array[at[0], :, at[1]] = self.rng.standard_normal((heads, size)) * (30 if stored == i8 else 1)
            found[key] = self.given(key, of, array.astype(stored.numpy))
        if stored != dtype:
            for key in ("key_scale", "value_scale"):
                scale = (0.5 + self.rng.random(heads)) / (30 if stored == i8 else 1)
                rest[key] = self.given(key, f32[heads,], scale.astype(np.float32))
        return found, rest


def heads_of(rng: Random) -> tuple[int, int, int]:
    """Query heads, key heads and head size."""
    heads, kv_heads = ((1, 1), (4, 4), (8, 2), (12, 1), (32, 1), (28, 4))[int(rng.integers(6))]
    return heads, kv_heads, int(rng.choice((8, 32, 64, 80, 96, 128, 256)))


def rope_and_append(stored: DType | None = None, paged: bool = False) -> Callable[[Random, DType], Case]:
    def made(rng: Random, dtype: DType) -> Case:
        heads, kv_heads, size = heads_of(rng)
        tokens = int(rng.choice((1, 1, 3)))
        make = CacheMaker(rng, stored, paged, tokens)
        caches, rest = make.caches(dtype, kv_heads, size, make.past)
        return make.case(fused.RopeAndAppend(
            make.floats("qkv", dtype["B", tokens, (heads + 2 * kv_heads) * size]), **caches,
            start=make.given("start", i32["B",], make.past), **tables(make, dtype, size), **rest,
            heads=heads, kv_heads=kv_heads, interleaved=bool(rng.random() < 0.5),
        ))   # fmt: skip

    return made


def tables(make: CacheMaker, dtype: DType, size: int) -> dict[str, Any]:
    """Cosines and sines, as rounded to the type, of all elements of a head, of half of them, or none."""
    half = int(make.rng.choice((0, size // 4, size // 2)))
    if not half:
        return {}
    angles = make.rng.random((make.sizes["M"], half)) * 7
    return {
        key: make.given(key, f32["M", half], table.astype(dtype.numpy).astype(np.float32))
        for key, table in (("cos", np.cos(angles)), ("sin", np.sin(angles)))
    }


def seen(make: CacheMaker, heads: int, size: int) -> dict[str, Any]:
    """What decides which keys a token sees, and how much: slopes, or none; scale; window; soft-cap."""
    rng, found = make.rng, dict[str, Any]()
    if rng.random() < 0.3:
        slopes = 2.0 ** -rng.integers(1, 8, heads)
        found["slopes"] = make.given("slopes", f32[heads,], slopes.astype(np.float32))
    window, softcap = int(rng.choice((0, 0, 5, 100))), float(rng.choice((0, 0, 2)))
    return {**found, "scale": size**-0.5, "window": window, "softcap": softcap}


def decode_attention(stored: DType | None = None, paged: bool = False) -> Callable[[Random, DType], Case]:
    def made(rng: Random, dtype: DType) -> Case:
        heads, kv_heads, size = heads_of(rng)
        make = CacheMaker(rng, stored, paged, 0)
        caches, rest = make.caches(dtype, kv_heads, size, make.past)
        told = seen(make, heads, size)
        return make.case(fused.DecodeAttention(
            make.floats("q", dtype["B", 1, heads * size]), **caches,
            lengths=make.given("lengths", i32["B",], make.past), **rest, **told, heads=heads, kv_heads=kv_heads,
        ))   # fmt: skip

    return made


def append_and_attend(stored: DType | None = None, paged: bool = False) -> Callable[[Random, DType], Case]:
    def made(rng: Random, dtype: DType) -> Case:
        heads, kv_heads = ((1, 1), (4, 4), (8, 2), (12, 1), (16, 1), (28, 4))[int(rng.integers(6))]
        size = int(rng.choice((32, 64, 96, 128, 256)))
        make = CacheMaker(rng, stored, paged, 1)
        caches, rest = make.caches(dtype, kv_heads, size, make.past)
        if rng.random() < 0.5:
            new = (rng.random(make.sizes["B"]) < 0.7).astype(np.int32)
            rest["lengths"] = make.given("lengths", i32["B",], new)
        told = seen(make, heads, size)
        return make.case(fused.AppendAndAttend(
            make.floats("qkv", dtype["B", 1, (heads + 2 * kv_heads) * size]), **caches,
            start=make.given("start", i32["B",], make.past), **tables(make, dtype, size), **rest, **told,
            heads=heads, kv_heads=kv_heads, interleaved=bool(rng.random() < 0.5),
        ))   # fmt: skip

    return made


def prefill_attention(stored: DType | None = None, paged: bool = False) -> Callable[[Random, DType], Case]:
    def made(rng: Random, dtype: DType) -> Case:
        tokens = int(rng.choice((1, 5, 17, 70, 150)))
        heads, kv_heads, size = heads_of(rng)
        if tokens > 17:   # else the emulator takes too long
            heads, kv_heads = ((1, 1), (2, 2), (4, 1), (3, 1), (6, 2), (2, 1))[int(rng.integers(6))]
        make = CacheMaker(rng, stored, paged, 0)
        capacity, batch = make.sizes["M"], make.sizes["B"]
        make.sizes["S"] = tokens = min(tokens, capacity)
        new = np.where(rng.random(batch) < 0.5, rng.choice((0, 1, tokens), batch), rng.integers(0, tokens + 1, batch))
        start = np.minimum(np.where(rng.random(batch) < 0.4, 0, make.past), capacity - new)
        caches, rest = make.caches(dtype, kv_heads, size, start + new)
        told = seen(make, heads, size)
        return make.case(fused.PrefillAttention(
            make.floats("q", dtype["B", "S", heads * size]), **caches,
            start=make.given("start", i32["B",], start.astype(np.int32)),
            lengths=make.given("lengths", i32["B",], new.astype(np.int32)), **rest, **told,
            heads=heads, kv_heads=kv_heads,
        ))   # fmt: skip

    return made


MAKES: dict[str, Callable[[Random, DType], Case]] = {
    "embedding": embedding,
    "rms_norm": norm(ops.RMSNorm),
    "layer_norm": norm(ops.LayerNorm),
    "add_rms_norm": norm(fused.AddRMSNorm),
    "add_layer_norm": norm(fused.AddLayerNorm),
    "argmax": argmax,
    "route": route,
    "experts_inner": experts(outer=False),
    "experts_outer": experts(outer=True),
    "sample": sample,
    "stop_check": stop_check,
    "rope_and_append": rope_and_append(),
    "rope_and_append, paged": rope_and_append(paged=True),
    "rope_and_append, i8": rope_and_append(i8),
    "rope_and_append, f8e4m3, paged": rope_and_append(f8e4m3, paged=True),
    "decode_attention": decode_attention(),
    "decode_attention, paged": decode_attention(paged=True),
    "decode_attention, i8": decode_attention(i8),
    "decode_attention, f8e4m3, paged": decode_attention(f8e4m3, paged=True),
    "append_and_attend": append_and_attend(),
    "append_and_attend, paged": append_and_attend(paged=True),
    "append_and_attend, i8": append_and_attend(i8),
    "append_and_attend, f8e4m3, paged": append_and_attend(f8e4m3, paged=True),
    "prefill_attention": prefill_attention(),
    "prefill_attention, paged": prefill_attention(paged=True),
    "prefill_attention, i8": prefill_attention(i8),
    "prefill_attention, f8e4m3, paged": prefill_attention(f8e4m3, paged=True),
}
DTYPES: tuple[DType, ...] = (f32, f16, bf16)


def seeded(name: str, dtype: DType, seed: int) -> Case:
    """The same case for the same name, dtype and seed."""
    return MAKES[name](np.random.default_rng([seed, *name.encode(), *dtype.name.encode()]), dtype)


def serving(case: Case, architecture: int) -> list[Kernel]:
    """The kernels that serve a case.

    There are none of f32 for integer weights and for attention that appends, and but of bf16 for products about norms.
    """
    found = [k for k in KERNELS[type(case.op)] if k.serves(case.op, architecture) is None]
    weight, appends = case.op.operands.get("weight"), isinstance(case.op, fused.AppendAndAttend)
    normed = isinstance(case.op, fused.LinearForNorm) or "squares" in case.op.operands
    wide = case.op.dtype == f32 and (appends or (weight is not None and weight.dtype in (i4, i8, f8e4m3)))
    assert found or wide or (normed and case.op.dtype != bf16)
    return found


def share_of_tolerance(case: Case, got: Iterable[Array], want: Iterable[Array]) -> float:
    """The greatest error of the results as a share of what is allowed; more than 1 is too much."""
    shares: list[float] = []
    for a, b, of in zip(got, want, case.op.types, strict=True):
        dtype = max((d for d in (of.dtype, case.op.dtype) if d in NORM), key=NORM.__getitem__, default=of.dtype)
        shares.append(_share(a, b, dtype) if dtype in NORM else 0.0 if (a == b).all() else np.inf)
    return max(shares)


def _share(got: Array, want: Array, dtype: DType) -> float:
    """Of one result; infinite where NaN or infinity stands in one alone."""
    a, b = got.astype(np.float64), want.astype(np.float64)
    kept, infinite = np.isfinite(b), np.isinf(b)
    if (np.isnan(a) != np.isnan(b)).any() or (a[infinite] != b[infinite]).any():
        return np.inf
    a, b = a[kept], b[kept]
    if not b.size:
        return 0.0
    step = 1.0 if got.dtype == np.int8 else 0.0   # a cache of integers: one step, where rounding meets a tie
    apart = np.maximum(np.abs(a - b) - step, 0)
    norm = np.linalg.norm(apart) / max(np.linalg.norm(b), 1e-30)
    largest = apart.max() / max(np.abs(b).max(), 1e-30)
    eight = 12.0 if got.dtype.itemsize == 1 and not step else 1.0   # f8e4m3 has 4 bits
    return float(max(norm / NORM[dtype], largest / LARGEST[dtype]) / eight)
