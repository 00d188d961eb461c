"""Every op: its decomposition means the same, and it means what PyTorch and transformers mean by its name."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module
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
from trtc.ir.types import Dim, DType, TensorType, bf16, bool_, f16, f32, i32

torch: Any = import_module("torch")   # its types are partial
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


# --- against PyTorch, in f32: both round sums of a few dozen numbers, in another order

RNG = np.random.default_rng(0)


def floats(*sizes: int) -> Array:
    return RNG.standard_normal(sizes).astype(np.float32)


def evaluate(kind: Callable[..., Op], *arrays: Array | None, **attributes: Any) -> Array:
    """One op on arrays."""
    inputs = [None if a is None else Input(f"i{n}", of(a)) for n, a in enumerate(arrays)]
    tensors = {f"i{n}": a for n, a in enumerate(arrays) if a is not None}
    return graph(kind(*inputs, **attributes)).evaluate(tensors)["o0"]


def of(array: Array) -> TensorType:
    dtypes = {np.dtype(np.float32): f32, np.dtype(np.int32): i32, np.dtype(np.bool_): bool_}
    return TensorType(dtypes[array.dtype], array.shape)


def torch_of(function: Callable[..., Any], *arrays: Array, **options: Any) -> Array:
    return function(*map(torch.from_numpy, arrays), **options).numpy()


F: Any = torch.nn.functional
ELEMENTWISE: dict[str, Callable[[Any], Any]] = {
    "silu": F.silu, "relu": F.relu, "gelu": F.gelu, "neg": torch.neg, "exp": torch.exp, "tanh": torch.tanh,
    "sigmoid": torch.sigmoid, "erf": torch.erf, "cos": torch.cos, "sin": torch.sin,
    "sqrt": torch.sqrt, "reciprocal": torch.reciprocal,
}   # fmt: skip


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise(name: str) -> None:
    x = floats(5, 7) * 3
    x = np.abs(x) + np.float32(0.1) if name in ("sqrt", "reciprocal") else x
    np.testing.assert_allclose(evaluate(OPS[name], x), torch_of(ELEMENTWISE[name], x), rtol=2e-6, atol=1e-6)


def test_gelu_by_tanh() -> None:
    x = floats(5, 7) * 3
    np.testing.assert_allclose(
        evaluate(ops.GELU, x, tanh=True), torch_of(F.gelu, x, approximate="tanh"), rtol=2e-6, atol=1e-6
    )


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_softmax(axis: int) -> None:
    x = floats(2, 3, 4) * 5
    np.testing.assert_allclose(evaluate(ops.Softmax, x, axis=axis), torch_of(F.softmax, x, dim=axis), rtol=1e-5)


def test_norms() -> None:
    x, gain, bias = floats(3, 4, 16), floats(16), floats(16)
    t = {k: torch.from_numpy(v) for k, v in (("weight", gain), ("bias", bias))}
    rms = torch_of(F.rms_norm, x, normalized_shape=(16,), weight=t["weight"], eps=1e-3)
    np.testing.assert_allclose(evaluate(ops.RMSNorm, x, gain, eps=1e-3), rms, rtol=1e-5, atol=1e-6)
    layer = torch_of(F.layer_norm, x, normalized_shape=(16,), eps=1e-3, **t)
    np.testing.assert_allclose(evaluate(ops.LayerNorm, x, gain, bias, eps=1e-3), layer, rtol=1e-5, atol=1e-5)
    plain = torch_of(F.layer_norm, x, normalized_shape=(16,), weight=t["weight"], eps=1e-3)
    np.testing.assert_allclose(evaluate(ops.LayerNorm, x, gain, eps=1e-3), plain, rtol=1e-5, atol=1e-5)


def test_linear_and_embedding() -> None:
    x, weight, bias = floats(2, 3, 8), floats(5, 8), floats(5)
    want = torch_of(F.linear, x, weight, bias)
    np.testing.assert_allclose(evaluate(ops.Linear, x, weight, bias), want, rtol=1e-5, atol=1e-5)
    ids = np.array([[0, 4], [3, 3]], np.int32)
    np.testing.assert_array_equal(evaluate(ops.Embedding, weight, ids), torch_of(F.embedding, ids, weight))


@pytest.mark.parametrize("heads,kv_heads", [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("causal", [False, True])
def test_attention(heads: int, kv_heads: int, causal: bool) -> None:
    q, k, v = floats(2, heads, 5, 8), floats(2, kv_heads, 5, 8), floats(2, kv_heads, 5, 6)
    want = torch_of(F.scaled_dot_product_attention, q, k, v, is_causal=causal, scale=0.3, enable_gqa=True)
    got = evaluate(ops.Attention, q, k, v, scale=0.3, causal=causal)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_attention_with_a_mask() -> None:
    q, k, v = floats(2, 4, 3, 8), floats(2, 2, 7, 8), floats(2, 2, 7, 8)
    mask = RNG.random((2, 1, 3, 7)) < 0.6
    mask[..., 0] = True
    want = F.scaled_dot_product_attention(
        *map(torch.from_numpy, (q, k, v)), attn_mask=torch.from_numpy(mask), scale=1.0, enable_gqa=True
    )
    got = evaluate(ops.Attention, q, k, v, None, mask, causal=False)
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-5)


def slow_attention(
    q: Array, k: Array, v: Array, lengths: list[int], slopes: Array | None = None, *,
    causal: bool, window: int, softcap: float, scale: float,
) -> Array:   # fmt: skip
    """Attention one score at a time, as its docstring states it."""
    rise = np.zeros(q.shape[1]) if slopes is None else slopes
    (batch, heads, tokens, _), kv_heads = q.shape, k.shape[1]
    y = np.zeros((*q.shape[:3], v.shape[3]))
    for b in range(batch):
        for h in range(heads):
            for s in range(tokens):
                place = lengths[b] - tokens + s
                weights: dict[int, float] = {}
                for j in range(lengths[b]):
                    if (causal and j > place) or (window and j <= place - window):
                        continue
                    score = scale * float(q[b, h, s].astype(np.float64) @ k[b, h // (heads // kv_heads), j])
                    score = softcap * math.tanh(score / softcap) if softcap else score
                    weights[j] = math.exp(score + float(rise[h]) * (j - place))
                for j, weight in weights.items():
                    y[b, h, s] += weight / sum(weights.values()) * v[b, h // (heads // kv_heads), j]
    return y


@pytest.mark.parametrize("softcap", [0.0, 2.0])
@pytest.mark.parametrize("causal,window", [(False, 0), (True, 0), (True, 1), (True, 3)])
@pytest.mark.parametrize("lengths", [[3, 7], [5, 6], None])
def test_attention_one_score_at_a_time(lengths: list[int] | None, causal: bool, window: int, softcap: float) -> None:
    q, k, v = floats(2, 4, 3, 8), floats(2, 2, 7, 8), floats(2, 2, 7, 5)
    options: dict[str, Any] = {"causal": causal, "window": window, "softcap": softcap, "scale": 0.4}
    given_lengths = None if lengths is None else np.array(lengths, np.int32)
    want = slow_attention(q, k, v, lengths or [7, 7], **options)
    np.testing.assert_allclose(evaluate(ops.Attention, q, k, v, given_lengths, **options), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("softcap,window", [(0.0, 0), (2.0, 3)])
@pytest.mark.parametrize("lengths", [[3, 7], [5, 6]])
def test_attention_with_slopes_one_score_at_a_time(lengths: list[int], softcap: float, window: int) -> None:
    q, k, v, slopes = floats(2, 4, 3, 8), floats(2, 2, 7, 8), floats(2, 2, 7, 5), floats(4)
    options: dict[str, Any] = {"causal": True, "window": window, "softcap": softcap, "scale": 0.4}
    want = slow_attention(q, k, v, lengths, slopes, **options)
    got = evaluate(ops.Attention, q, k, v, np.array(lengths, np.int32), None, slopes, **options)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_cache_update_one_token_at_a_time() -> None:
    cache, new, start = floats(3, 2, 7, 4), floats(3, 2, 3, 4), np.array([0, 4, 2], np.int32)
    want = cache.copy()
    for b in range(3):
        for h in range(2):
            for s in range(3):
                want[b, h, start[b] + s] = new[b, h, s]
    np.testing.assert_array_equal(evaluate(ops.KVCacheUpdate, cache, new, start), want)


def rotary(name: str, x: Array, cos: Array, sin: Array) -> Array:
    """transformers' apply_rotary_pos_emb of a model, on [B, N, S, D] and tables of its own layout."""
    module: Any = pytest.importorskip(f"transformers.models.{name}.modeling_{name}")
    q, _ = module.apply_rotary_pos_emb(*map(torch.from_numpy, (x, x, cos, sin)))
    return q.numpy()


def test_rope_as_llama_turns() -> None:
    x, angles = floats(2, 3, 5, 8), floats(2, 5, 4)
    cos, sin = np.cos(angles), np.sin(angles)
    want = rotary("llama", x, np.concatenate([cos, cos], -1), np.concatenate([sin, sin], -1))
    np.testing.assert_allclose(evaluate(ops.Rope, x, cos, sin), want, rtol=1e-5, atol=1e-6)


def test_rope_of_a_part_of_each_head() -> None:
    x, angles = floats(2, 3, 5, 8), floats(2, 5, 3)
    cos, sin = np.cos(angles), np.sin(angles)
    got = evaluate(ops.Rope, x, cos, sin)
    np.testing.assert_allclose(got[..., :6], evaluate(ops.Rope, x[..., :6], cos, sin), rtol=1e-6)
    np.testing.assert_array_equal(got[..., 6:], x[..., 6:])


def test_rope_in_gptj_order() -> None:
    module: Any = pytest.importorskip("transformers.models.gptj.modeling_gptj")
    x, angles = floats(2, 3, 5, 8), floats(2, 5, 4)
    cos, sin = np.cos(angles), np.sin(angles)
    by_token = torch.from_numpy(x).transpose(1, 2)
    want = module.apply_rotary_pos_emb(by_token, torch.from_numpy(sin), torch.from_numpy(cos)).transpose(1, 2)
    np.testing.assert_allclose(evaluate(ops.Rope, x, cos, sin, interleaved=True), want.numpy(), rtol=1e-5, atol=1e-6)


MOVES: dict[str, tuple[Callable[[Value], Op], Callable[[Any], Any]]] = {
    "slice": (lambda x: ops.Slice(x, 1, 1, 2), lambda t: t.narrow(1, 1, 2)),
    "transpose": (lambda x: ops.Transpose(x, (2, 0, 1)), lambda t: t.permute(2, 0, 1)),
    "concat": (lambda x: ops.Concat((x, x), 1), lambda t: torch.cat([t, t], 1)),
    "reshape": (lambda x: ops.Reshape(x, (6, 4)), lambda t: t.reshape(6, 4)),
    "broadcast": (lambda x: ops.Broadcast(x, (5, 2, 3, 4)), lambda t: t.expand(5, 2, 3, 4)),
}


@pytest.mark.parametrize("name", MOVES)
def test_data_movement(name: str) -> None:
    x, (kind, function) = floats(2, 3, 4), MOVES[name]
    np.testing.assert_array_equal(evaluate(kind, x), torch_of(function, x))


def test_gather() -> None:
    x, indices = floats(2, 3, 4), np.array([[2, 0], [1, 1]], np.int32)
    np.testing.assert_array_equal(evaluate(ops.Gather, x, indices, axis=1), x[:, indices])
    t, rows = torch.from_numpy(x), torch.from_numpy(indices.astype(np.int64))
    want = torch.gather(t, 1, rows[:, :, None].expand(2, 2, 4)).numpy()
    np.testing.assert_array_equal(evaluate(ops.Gather, x, indices, axis=1, batch=1), want)


REDUCTIONS: dict[str, Callable[..., Any]] = {
    "reduce_sum": torch.sum, "reduce_mean": torch.mean, "reduce_max": torch.amax,
}   # fmt: skip


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name: str) -> None:
    x = floats(3, 4, 5)
    want = torch_of(REDUCTIONS[name], x, dim=1, keepdim=True)
    np.testing.assert_allclose(evaluate(OPS[name], x, axis=1), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype,other", [(f16, torch.float16), (bf16, torch.bfloat16)])
@pytest.mark.parametrize("kind,function", [(ops.Mul, torch.mul), (ops.Add, torch.add), (ops.Div, torch.div)])
def test_narrow_types_round_as_in_pytorch(kind: Any, function: Any, dtype: DType, other: Any) -> None:
    a, b = floats(100), floats(100)
    x, y = (ops.Cast(Input(name, f32[100]), dtype) for name in "ab")
    got = graph(ops.Cast(kind(x, y), f32)).evaluate({"a": a, "b": b})["o0"]
    want = function(*(torch.from_numpy(t).to(other) for t in (a, b))).float().numpy()
    np.testing.assert_array_equal(got, want)
