"""Every op means what PyTorch and transformers mean by its name, in f32: both round sums of few numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from trtc.ir import ops
from trtc.ir.graph import Graph
from trtc.ir.op import OPS, Array, Op, Value
from trtc.ir.ops import Input
from trtc.ir.types import DType, TensorType, bf16, bool_, f16, f32, i32

torch: Any = import_module("torch")   # its types are partial
RNG = np.random.default_rng(0)


def floats(*sizes: int) -> Array:
    return RNG.standard_normal(sizes).astype(np.float32)


def evaluate(kind: Callable[..., Op], *arrays: Array | None, **attributes: Any) -> Array:
    """One op on arrays."""
    inputs = [None if a is None else Input(f"i{n}", of(a)) for n, a in enumerate(arrays)]
    tensors = {f"i{n}": a for n, a in enumerate(arrays) if a is not None}
    return evaluated(kind(*inputs, **attributes), tensors)


def evaluated(value: Value, tensors: dict[str, Array]) -> Array:
    inputs = tuple(op for op in Graph("g", (), {"y": value}, {}).ops if isinstance(op, Input))
    return Graph("g", inputs, {"y": value}, {}).evaluate(tensors)["y"]


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
    got = evaluated(ops.Cast(kind(x, y), f32), {"a": a, "b": b})
    want = function(*(torch.from_numpy(t).to(other) for t in (a, b))).float().numpy()
    np.testing.assert_array_equal(got, want)
