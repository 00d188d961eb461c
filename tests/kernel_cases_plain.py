"""Ops that graphs keep beside the fused ones, with random tensors, for the kernels that are made for any of them.

They join the cases of kernel_cases.py and kernel_cases_linear.py once this module is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from kernel_cases import Case, Maker, Random
from kernel_cases_linear import F8, I4, I4_ZEROS, I8, I8_GROUPS, MAKES, weights

from trtc.backend.kernels import ops as fused
from trtc.ir import ops
from trtc.ir.op import Op
from trtc.ir.ops import scalar
from trtc.ir.types import DType, bool_, f32, i32, i64

Make = Callable[[Random, DType], Case]
SHAPES = (
    (("B", 3, 40), ("B", 3, 40)), (("B", 3, 40), (40,)), (("B", 1, 7), (1, 5, 7)), (("B", 5, 1, 6), ("B", 1, "S", 6)),
    (("B", "S"), ("B", 1)), ((1,), ("B",)),
)   # fmt: skip
"""Pairs that broadcast: alike, rows, outwards, across the middle, along unknown sizes."""


def maker(rng: Random) -> Maker:
    return Maker(rng, B=int(rng.integers(1, 5)), S=int(rng.integers(1, 70)))


def binary(kind: type[ops.Binary] | type[ops.Compare], integers: bool = True) -> Make:
    def made(rng: Random, dtype: DType) -> Case:
        make, number = maker(rng), int(rng.integers(len(SHAPES)))
        a, b = SHAPES[number]
        if integers and rng.random() < 0.4:
            of = (i32, i64)[int(rng.integers(2))]
            return make.case(kind(make.integers("a", of[a], -9, 9), make.integers("b", of[b], -9, 9)))
        x = make.floats("a", dtype[a])
        return make.case(kind(x, scalar(0.3, dtype) if rng.random() < 0.4 else make.floats("b", dtype[b])))

    return made


def unary(kind: Callable[..., Op]) -> Make:
    def made(rng: Random, dtype: DType) -> Case:
        make = maker(rng)
        x = make.floats("x", dtype["B", "S", 5])
        if kind in (ops.Sqrt, ops.Reciprocal):   # of which rounding errors near 0 are no use
            make.tensors["x"] = (np.abs(make.tensors["x"].astype(np.float32)) + 0.25).astype(dtype.numpy)
        return make.case(kind(x))

    return made


def both(rng: Random, _: DType) -> Case:
    make = maker(rng)
    a, b = (make.integers(key, bool_["B", size], 0, 1) for key, size in (("a", 6), ("b", 1)))
    return make.case(ops.And(a, b))


def where(rng: Random, dtype: DType) -> Case:
    make = maker(rng)
    condition = make.integers("condition", bool_["B", 1, "S", 3], 0, 1)
    b = scalar(-np.inf, dtype) if rng.random() < 0.5 else make.floats("b", dtype[3,])
    return make.case(ops.Where(condition, make.floats("a", dtype["B", 2, "S", 3]), b))


def cast(rng: Random, dtype: DType) -> Case:
    make = maker(rng)
    to = (dtype, f32, i32, i64, bool_)[int(rng.integers(5))]
    shape = ("B", "S", 3)
    x = make.floats("x", dtype[shape], 3) if rng.random() < 0.5 else make.integers("x", i32[shape], -9, 9)
    return make.case(ops.Cast(x, to))


def sizes(rng: Random, dtype: DType) -> Case:
    make = maker(rng)
    if rng.random() < 0.5:
        return make.case(ops.Iota((i32["S",].shape[0], 300)[int(rng.integers(2))]))
    return make.case(ops.SizeOf(make.floats("x", dtype["B", "S"]), int(rng.integers(2))))


def moved(rng: Random, dtype: DType) -> Case:
    make = maker(rng)
    of = dtype if rng.random() < 0.7 else i32
    shape = of["B", 3, "S", 8]
    x = make.floats("x", shape) if of is dtype else make.integers("x", shape, -9, 9)
    return make.case((
        ops.Transpose(x, (0, 2, 1, 3)), ops.Transpose(x, (3, 1, 2, 0)), ops.Slice(x, 3, 2, 5), ops.Slice(x, 1, 1, 2),
        ops.Broadcast(x, dtype[2, "B", 3, "S", 8].shape),
    )[int(rng.integers(5))])   # fmt: skip


def concat(rng: Random, dtype: DType) -> Case:
    make = maker(rng)
    if rng.random() < 0.5:
        parts = tuple(make.floats(f"p{n}", dtype["B", size, 4]) for n, size in enumerate((3, "S", 2)))
        return make.case(ops.Concat(parts, 1))
    parts = tuple(make.floats(f"p{n}", dtype["B", "S", size]) for n, size in enumerate((1, 7)))
    return make.case(ops.Concat(parts, 2))


def gather(rng: Random, dtype: DType) -> Case:
    make = maker(rng)
    if rng.random() < 0.5:
        indices = make.integers("indices", (i32 if rng.random() < 0.5 else i64)["B", "S"], 0, 4)
        return make.case(ops.Gather(make.floats("x", dtype[3, 5, 4]), indices, axis=1))
    indices = make.integers("indices", i32["B", 6], 0, make.sizes["S"] - 1)
    return make.case(ops.Gather(make.floats("x", dtype["B", 2, "S", 4]), indices, axis=2, batch=1))


def along(kind: Callable[[Any, int], Op]) -> Make:
    def made(rng: Random, dtype: DType) -> Case:
        make, axis = maker(rng), int(rng.integers(3))
        return make.case(kind(make.floats("x", dtype["B", "S", int(rng.choice((1, 8, 100)))]), axis))

    return made


def top_k(rng: Random, dtype: DType) -> Case:
    make = Maker(rng, B=int(rng.integers(1, 4)))
    width = int(rng.choice((6, 97, 4096, 9000, 50257)))
    return make.case(ops.TopK(make.floats("x", dtype["B", width]), min(width, int(rng.choice((2, 6, 64, 300))))))


def matmul(rng: Random, dtype: DType) -> Case:
    make = maker(rng)
    a, b = (
        (("B", 2, "S", 20), ("B", 1, 20, 33)), (("S", 7), (7, "B")), ((3, 17, "S"), ("B", 1, "S", 4)),
    )[int(rng.integers(3))]   # fmt: skip
    return make.case(ops.MatMul(make.floats("a", dtype[a], 0.3), make.floats("b", dtype[b])))


def attention(rng: Random, dtype: DType) -> Case:
    make = maker(rng)
    make.sizes["T"] = make.sizes["S"] + int(rng.integers(0, 60))
    heads, kv_heads = ((4, 4), (6, 2), (5, 1))[int(rng.integers(3))]
    head, size = ((24, 16), (64, 64), (192, 128), (40, 80))[int(rng.integers(4))]
    given: dict[str, Any] = {"causal": bool(rng.random() < 0.7)}
    if rng.random() < 0.7:
        given["lengths"] = make.integers("lengths", i32["B",], make.sizes["S"], make.sizes["T"])
    if rng.random() < 0.4:
        mask = make.integers("mask", bool_["B", 1, "S", "T"] if rng.random() < 0.5 else bool_["S", "T"], 0, 1)
        make.tensors["mask"][..., 0] = True   # every token sees a key
        given["mask"] = mask
    elif given["causal"]:
        given["window"] = int(rng.choice((0, 5)))
    if rng.random() < 0.3:
        given["slopes"] = make.given("slopes", f32[heads,], (2.0 ** -rng.integers(1, 8, heads)).astype(np.float32))
    return make.case(ops.Attention(
        make.floats("q", dtype["B", heads, "S", head]), make.floats("k", dtype["B", kv_heads, "T", head]),
        make.floats("v", dtype["B", kv_heads, "T", size]), scale=head**-0.5, softcap=float(rng.choice((0, 2))), **given,
    ))   # fmt: skip


def cache_update(rng: Random, dtype: DType) -> Case:
    make = maker(rng)
    make.sizes["M"] = make.sizes["S"] + int(rng.integers(0, 40))
    cache = make.floats("cache", dtype["B", 2, "M", int(rng.choice((5, 64)))])
    new = make.floats("new", dtype["B", 2, "S", cache.shape[3]])
    start = make.integers("start", i32["B",], 0, make.sizes["M"] - make.sizes["S"])
    return make.case(ops.KVCacheUpdate(cache, new, start))


def rope(rng: Random, dtype: DType) -> Case:
    make, half = maker(rng), int(rng.choice((3, 8)))
    cos, sin = (make.floats(key, dtype["B", "S", half]) for key in ("cos", "sin"))
    return make.case(ops.Rope(make.floats("x", dtype["B", 2, "S", 16]), cos, sin, bool(rng.random() < 0.5)))


def dequantize(rng: Random, dtype: DType) -> Case:
    how = (I8, I4, F8, I4_ZEROS, I8_GROUPS)[int(rng.integers(5))]
    make = maker(rng)
    weight, scales, zeros = weights(make, dtype, 3, 256, how)
    assert scales
    return make.case(fused.Dequantize(weight, scales, zeros))


MAKES.update({
    "add": binary(ops.Add), "sub": binary(ops.Sub), "mul": binary(ops.Mul), "div": binary(ops.Div, integers=False),
    "pow": binary(ops.Pow, integers=False), "maximum": binary(ops.Maximum), "minimum": binary(ops.Minimum),
    "less": binary(ops.Less), "less_equal": binary(ops.LessEqual), "and": both, "where": where, "cast": cast,
    **{kind.name: unary(kind) for kind in (
        ops.Neg, ops.Exp, ops.Sqrt, ops.Reciprocal, ops.Tanh, ops.Sigmoid, ops.Erf, ops.Cos, ops.Sin, ops.ReLU,
        ops.SiLU,
    )},
    "gelu": unary(ops.GELU), "gelu, tanh": unary(partial(ops.GELU, tanh=True)),
    "iota, size_of": sizes, "moves": moved, "concat": concat, "gather": gather,
    **{kind.name: along(kind) for kind in (ops.ReduceSum, ops.ReduceMean, ops.ReduceMax, ops.Softmax)},
    "rope": rope, "dequantize": dequantize, "top_k": top_k, "matmul": matmul, "attention": attention,
    "kv_cache_update": cache_update,
})   # fmt: skip
