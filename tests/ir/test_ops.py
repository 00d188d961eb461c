"""Every op: its decomposition means the same, and its docstring says it all."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from testing_target import AddMul, Halves

from trtc.ir import ops
from trtc.ir.graph import Graph
from trtc.ir.op import OPS, Array, Op, Value
from trtc.ir.ops import Input
from trtc.ir.sample import sample
from trtc.ir.types import Dim, DType, TensorType, bool_, f16, f32, i32

BOUNDS = {"B": (1, 3), "S": (1, 5), "T": (5, 9)}
B, S, T = (Dim.named(name) for name in BOUNDS)
TOLERANCE = {f32: 2e-5, f16: 2e-2}   # of the greatest element: a few roundings of sums of up to 16 numbers
Make = Callable[[Random, DType], Op]


def shape(random: Random, least: int = 1, most: int = 4) -> tuple[int | Dim, ...]:
    return tuple(random.choice((1, 2, 3, 5, B, S)) for _ in range(random.randint(least, most)))


def rows(random: Random, dtype: DType, name: str = "x") -> Input:
    return Input(name, TensorType(dtype, (*shape(random, 1, 3), random.choice((1, 4, 8)))))


def unary(kind: Callable[..., Op], **choices: tuple[Any, ...]) -> Make:
    return lambda random, dtype: kind(rows(random, dtype), **{k: random.choice(v) for k, v in choices.items()})


def swiglu(random: Random, dtype: DType) -> Op:
    gate = rows(random, dtype)
    return ops.SwiGLU(gate, Input("up", gate.type))


def norm(kind: Callable[..., Op], biased: bool) -> Make:
    def make(random: Random, dtype: DType) -> Op:
        x = rows(random, dtype)
        gain, bias = (Input(name, dtype[x.shape[-1]]) for name in ("gain", "bias"))
        eps = random.choice((1e-6, 1e-3, 0.5))
        return kind(x, gain, bias, eps=eps) if biased and random.random() < 0.5 else kind(x, gain, eps=eps)

    return make


def linear(random: Random, dtype: DType) -> Op:
    x, n = rows(random, dtype), random.choice((1, 3, 8))
    bias = Input("bias", dtype[n]) if random.random() < 0.5 else None
    return ops.Linear(x, Input("weight", dtype[n, x.shape[-1]]), bias)


def softmax(random: Random, dtype: DType) -> Op:
    x = rows(random, dtype)
    return ops.Softmax(x, random.randrange(x.type.rank))


def embedding(random: Random, dtype: DType) -> Op:
    return ops.Embedding(Input("table", dtype[7, 4]), Input("ids", TensorType(i32, shape(random))))


def rope(random: Random, dtype: DType) -> Op:
    head = random.choice((2, 4, 8))
    angles = dtype["B", "S", random.choice([h for h in (1, 2, 3, 4) if 2 * h <= head])]
    x = Input("x", dtype["B", random.choice((1, 3)), "S", head])
    return ops.Rope(x, Input("cos", angles), Input("sin", angles), interleaved=random.random() < 0.5)


def attention(random: Random, dtype: DType) -> Op:
    heads, kv_heads = random.choice(((1, 1), (4, 4), (4, 2), (6, 2), (3, 1)))
    head, out = random.choice((1, 4)), random.choice((1, 4))
    keys = random.choice((S, T))
    q = Input("q", dtype["B", heads, "S", head])
    k, v = Input("k", dtype[B, kv_heads, keys, head]), Input("v", dtype[B, kv_heads, keys, out])
    causal = random.random() < 0.6
    return ops.Attention(
        q, k, v,
        Input("lengths", i32["B",]) if random.random() < 0.5 else None,
        Input("mask", TensorType(bool_, random.choice(((B, 1, S, keys), (heads, S, keys), (keys,)))))
        if random.random() < 0.3 else None,
        Input("slopes", f32[heads]) if random.random() < 0.4 else None,
        scale=random.choice((0.25, 1.0, -0.5)),
        causal=causal,
        window=random.choice((0, 1, 3)) if causal else 0,
        softcap=random.choice((0.0, 1.5)),
    )   # fmt: skip


def update(random: Random, dtype: DType) -> Op:
    cache = Input("cache", dtype["B", random.choice((1, 2)), "T", 4])
    return ops.KVCacheUpdate(cache, Input("new", dtype[B, cache.shape[1], S, 4]), Input("start", i32["B",]))


def experts(random: Random, dtype: DType) -> Op:
    count, width, hidden = random.choice((1, 4)), random.choice((1, 6)), random.choice((1, 8))
    chosen = i32["S", random.choice((1, 3))]
    fc, gate = (Input(name, dtype[count, width, hidden]) for name in ("fc", "gate"))
    return ops.Experts(
        Input("x", dtype["S", hidden]), Input("chosen", chosen), Input("shares", dtype[chosen.shape]), fc, gate,
        Input("proj", dtype[count, hidden, width]),
    )   # fmt: skip


def alone(kind: Callable[..., Op]) -> Make:
    """A collective of one rank, which is all that it decomposes for; tests of more are in test_collective.py."""
    return lambda random, dtype: kind(Input("x", dtype["B", 4]), (random.choice((0, 3)),))


def halves(random: Random, dtype: DType) -> Op:
    return Halves(Input("x", TensorType(dtype, (*shape(random), 6))))


def add_mul(random: Random, dtype: DType) -> Op:
    a, b, c = (Input(name, dtype["B", 4]) for name in "abc")
    return AddMul(a, b, c)


MAKES: dict[str, Make] = {
    "silu": unary(ops.SiLU),
    "gelu": unary(ops.GELU, tanh=(False, True)),
    "swiglu": swiglu,
    "rms_norm": norm(ops.RMSNorm, biased=False),
    "layer_norm": norm(ops.LayerNorm, biased=True),
    "linear": linear,
    "softmax": softmax,
    "embedding": embedding,
    "rope": rope,
    "attention": attention,
    "kv_cache_update": update,
    "experts": experts,
    **{kind.name: alone(kind) for kind in (ops.AllReduce, ops.AllGather, ops.ReduceScatter)},
    "testing.halves": halves,
    "testing.add_mul": add_mul,
}


def graph(*values: Value) -> Graph:
    found = Graph("g", (), {f"o{n}": v for n, v in enumerate(values)}, {})
    inputs = tuple(op for op in found.ops if isinstance(op, Input))
    return Graph("g", inputs, found.outputs, BOUNDS)


def test_every_op_that_decomposes_is_tested() -> None:
    ours = {name for name, kind in OPS.items() if kind.decompose is not Op.decompose}
    assert {n for n in ours if n.startswith("testing.") or "." not in n} == set(MAKES)


@pytest.mark.parametrize("dtype", [f32, f16], ids=str)
@pytest.mark.parametrize("name", MAKES)
def test_decomposition_means_the_same(name: str, dtype: DType) -> None:
    @given(st.integers(0, 2**32))
    def property(seed: int) -> None:
        op = MAKES[name](Random(seed), dtype)
        whole = graph(*op.results)
        parts = op.decompose()
        assert parts is not None
        made = parts if isinstance(parts, tuple) else (parts,)
        assert [v.type for v in made] == list(op.types)
        tensors = sample(whole, seed)
        for want, got in zip(whole.evaluate(tensors).values(), graph(*made).evaluate(tensors).values(), strict=True):
            assert want.dtype == got.dtype == op.dtype.numpy and want.shape == got.shape
            close(got, want, TOLERANCE[dtype])

    property()


def close(got: Array, want: Array, tolerance: float) -> None:
    a, b = got.astype(np.float64), want.astype(np.float64)
    scale = max(1.0, float(np.abs(b[np.isfinite(b)]).max(initial=0)))
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("name", [n for n in OPS if "." not in n])
def test_op_is_documented(name: str) -> None:
    doc = OPS[name].__doc__ or ""
    first = doc.splitlines()[0] if doc else ""
    assert doc and not doc.startswith(f"{OPS[name].__name__}(")
    assert first.endswith(".") and len(first) < 120, f"{name}: {first!r} is no sentence"
