"""The ops that kernels compute: what they mean is what their parts mean, and what others say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from kernel_cases import DTYPES, Case, seeded
from kernel_cases_plain import MAKES

from trtc.backend.kernels.ops import (
    AddLayerNorm,
    AddRMSNorm,
    AppendAndAttend,
    ArgMax,
    DecodeAttention,
    Dequantize,
    ExpertsInner,
    ExpertsOuter,
    FusedLinear,
    Gated,
    LinearForNorm,
    PrefillAttention,
    RopeAndAppend,
    Route,
    Sample,
    StopCheck,
    capped_linear,
    experts_in_two,
)  # fmt: skip
from trtc.backend.kernels.ops.sampling import draw, philox
from trtc.ir.errors import IRError
from trtc.ir.graph import Graph
from trtc.ir.op import Array, Op
from trtc.ir.ops import Experts, Input, Linear, Mul, Tanh, Weight, scalar, soft_cap
from trtc.ir.types import DType, TensorType, bf16, f8e4m3, f16, f32, i4, i8, i32
from trtc.passes.rewrite import apply
from trtc.runtime.sampling import candidates

TOLERANCE = {f32: 1e-5, f16: 4e-3, bf16: 3e-2}   # the parts round in between
OURS = [name for name in MAKES if seeded(name, f32, 0).op.name.startswith("cuda.")]


def graph(case: Case, parts: tuple[Op, ...]) -> Graph:
    inputs = tuple(v for v in dict.fromkeys(case.op.operands.values()) if isinstance(v, Input))
    return Graph("g", inputs, {f"o{n}": v for n, v in enumerate(parts)}, {k: (v, v) for k, v in case.sizes.items()})


def without_poison(array: Array) -> Array:
    """What lies beyond the lengths counts 0 in the parts, but 0 times NaN is NaN."""
    return np.where(np.isnan(array), 0, array).astype(array.dtype) if array.dtype.kind in "fV" else array


def kept(case: Case, array: Array) -> Array:
    """The results that both meanings define: attention without keys has none in its parts."""
    wide = array.astype(np.float64)
    return wide[case.tensors["lengths"] > 0] if case.op.name == "cuda.decode_attention" else wide


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", OURS)
def test_an_op_means_what_its_parts_mean(name: str, dtype: DType) -> None:
    for seed in range(12):
        case = seeded(name, dtype, seed)
        case = replace(case, tensors={k: without_poison(a) for k, a in case.tensors.items()})
        got = case.evaluate()
        assert [(a.dtype, a.ndim) for a in got] == [(t.dtype.numpy, t.rank) for t in case.op.types]
        parts = case.op.decompose()
        if parts is None:
            continue
        made = parts if isinstance(parts, tuple) else (parts,)
        assert [p.type for p in made] == list(case.op.types)
        for a, b in zip(got, graph(case, made).evaluate(case.tensors).values(), strict=True):   # pyright: ignore
            a, b = kept(case, a), kept(case, b)
            assert (np.isnan(a) == np.isnan(b)).all()
            scale = max(1.0, float(np.nanmax(np.abs(a), initial=0)))
            np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE[dtype] * scale)


@pytest.mark.parametrize("name", ["rope_and_append", "decode_attention", "append_and_attend", "prefill_attention"])
def test_a_paged_cache_means_what_a_linear_one_means(name: str) -> None:
    for seed in range(8):
        case = seeded(f"{name}, paged", f32, seed)
        pages = case.tensors["pages"]
        attributes: dict[str, Any] = {f.name: getattr(case.op, f.name) for f in case.op.fields}
        linear: dict[str, Array] = {}
        for key in ("key_cache", "value_cache"):
            paged = case.tensors[key][pages]   # [B, N, Hkv, 64, D]
            linear[key] = paged.swapaxes(1, 2).reshape(len(pages), paged.shape[2], -1, paged.shape[4])
            attributes[key] = Input(key, f32["B", paged.shape[2], "M", paged.shape[4]])
        kind: Any = type(case.op)
        plain = kind(**(attributes | {"pages": None}))
        other = Case(plain, case.sizes, {**case.tensors, **linear}).evaluate()
        got = case.evaluate()
        np.testing.assert_array_equal(got[0], other[0])
        for a, b in zip(got[1:], other[1:], strict=True):
            shown = a[pages].swapaxes(1, 2)
            np.testing.assert_array_equal(shown.reshape(b.shape), b)


@pytest.mark.parametrize("stored", [None, i8], ids=str)
def test_products_about_a_norm_mean_that_norm(stored: DType | None) -> None:
    """By their formulas in f64: a residual's sum, its rms_norm, and a product of that."""
    name = "linear_for_norm, i8" if stored else "linear_for_norm"
    case = next(c for c in (seeded(name, f32, seed) for seed in range(20)) if c.op.shape[-1] == 288)
    y, z, squares = (a.astype(np.float64) for a in case.evaluate(precise=True))
    rng, tensors = np.random.default_rng(0), {k: a.astype(np.float64) for k, a in case.tensors.items()}
    weight = tensors["weight"] * (tensors["scales"][:, None] if stored else 1)
    total = tensors["residual"] + tensors["x"] @ weight.T + tensors.get("bias", 0)
    np.testing.assert_allclose(y, total, rtol=0, atol=1e-9)
    normal = total / np.sqrt((total**2).mean(axis=-1, keepdims=True) + 0.1) * tensors["gain"]
    w = rng.standard_normal((5, 288))
    x, parts = Input("x", f32[y.shape]), Input("squares", f32[squares.shape])
    reader = FusedLinear(x, Input("w", f32[5, 288]), squares=parts, eps=0.1)
    got = reader.evaluate(z, w, None, None, None, squares, None)
    np.testing.assert_allclose(got, normal @ w.T, rtol=0, atol=1e-6)   # eps is rounded to f32


@pytest.mark.parametrize("name", ["fused_linear, i4, zeros", "fused_linear, i8, groups", "fused_linear, f8"])
def test_weights_of_few_bits_mean_what_their_scales_and_zeros_say(name: str) -> None:
    """Each number by itself, as the formula has it."""
    made = (seeded(name, f32, seed) for seed in range(40))
    case = next(c for c in made if c.op.operands["weight"].shape == (40, 512) and c.tensors["scales"].ndim == 2)
    q, scales = (case.tensors[key].astype(np.float64) for key in ("weight", "scales"))
    zeros = case.tensors.get("zeros", np.zeros_like(scales)).astype(np.float64)
    each = 512 // scales.shape[1]
    weight = np.array([[(q[n, k] - zeros[n, k // each]) * scales[n, k // each] for k in range(512)] for n in range(40)])
    given: dict[str, Any] = {k: v for k, v in case.op.operands.items() if k in ("weight", "scales", "zeros")}
    whole = Case(Dequantize(**given), {}, {key: case.tensors[key] for key in given})
    np.testing.assert_allclose(whole.evaluate(precise=True)[0], weight, rtol=1e-12)
    plain = FusedLinear(Input("x", f32[512, 512]), **given)
    tensors = {**whole.tensors, "x": np.eye(512, dtype=np.float32)}
    np.testing.assert_allclose(Case(plain, {}, tensors).evaluate(precise=True)[0], weight.T, rtol=1e-12)


def test_a_prompt_in_chunks_means_what_it_means_whole() -> None:
    cases = (seeded("prefill_attention", f32, seed) for seed in range(40))
    case = next(c for c in cases if c.sizes["S"] > 16 and c.tensors["lengths"].max() > 9)
    tensors, first = case.tensors, np.minimum(case.tensors["lengths"], 7)
    want = case.evaluate()[0]
    begin = replace(case, tensors={**tensors, "lengths": first})
    later = {"q": tensors["q"][:, 7:], "start": tensors["start"] + first, "lengths": tensors["lengths"] - first}
    end = replace(case, sizes={**case.sizes, "S": case.sizes["S"] - 7}, tensors={**tensors, **later})
    np.testing.assert_allclose(begin.evaluate()[0][:, :7], want[:, :7], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(end.evaluate()[0], want[:, 7:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stored", [i8, f8e4m3], ids=str)
def test_a_cache_of_8_bits_holds_the_nearest_numbers(stored: DType) -> None:
    size, batch = 32, 2
    cache = np.zeros((batch, 1, 4, size), stored.numpy)
    scale = np.array([0.02], np.float32)
    of = stored[cache.shape]
    op = RopeAndAppend(
        Input("qkv", f32[batch, 1, 3 * size]), Input("keys", of), Input("values", of), Input("start", i32[batch,]),
        key_scale=Input("ks", f32[1,]), value_scale=Input("vs", f32[1,]),
    )   # fmt: skip
    qkv = np.random.default_rng(0).standard_normal((batch, 1, 3 * size)).astype(np.float32)
    _, keys, _ = op.evaluate(qkv, cache, cache, np.array([0, 3], np.int32), None, None, None, scale, scale)
    want = torch.tensor((qkv[:, 0, size : 2 * size] / scale).tolist())
    if stored == i8:
        rows = want.round().clamp(-127, 127).numpy()
    else:
        rows = want.clamp(-448, 448).to(torch.float8_e4m3fn).float().numpy()   # torch's rounding
    np.testing.assert_array_equal(keys[[0, 1], 0, [0, 3]].astype(np.float32), rows)


def test_experts_in_two_mean_the_experts() -> None:
    case = seeded("experts_inner", f32, 3)
    rng = np.random.default_rng(0)
    (count, width, hidden), chosen = case.tensors["fc"].shape, case.tensors["chosen"]
    more = {"proj": rng.standard_normal((count, hidden, width)), "shares": rng.random(chosen.shape)}
    tensors = {**case.tensors, **{k: v.astype(np.float32) for k, v in more.items()}}
    inputs: dict[str, Any] = {
        k: Input(k, TensorType(i32 if k == "chosen" else f32, v.shape)) for k, v in tensors.items()
    }
    whole = Graph("g", tuple(inputs.values()), {"y": Experts(**inputs)}, {})
    two = apply(whole, [experts_in_two], "test")
    assert {type(op) for op in two.ops} == {Input, ExpertsInner, ExpertsOuter}
    np.testing.assert_allclose(two.evaluate(tensors)["y"], whole.evaluate(tensors)["y"], rtol=1e-5, atol=1e-5)


def test_soft_capped_logits_are_one_op() -> None:
    x, weight = Input("x", f16["B", 8]), Weight("w", f16[4, 8])
    capped = soft_cap(Linear(x, weight), 30.0)
    whole = Graph("g", (x,), {"y": capped}, {"B": (1, 2)})
    fused = apply(whole, [capped_linear], "test")
    assert [type(op) for op in fused.ops] == [Input, Weight, FusedLinear]
    made = fused.outputs["y"]
    assert isinstance(made, FusedLinear) and made.softcap == 30
    other = Graph("g", (x,), {"y": Mul(Tanh(Mul(Linear(x, weight), scalar(0.5, f16))), scalar(30, f16))}, {"B": (1, 2)})
    assert apply(other, [capped_linear], "test") == other


def test_philox_gives_the_published_numbers() -> None:
    """Of Random123's kat_vectors, philox 4x32 10: counters and keys of zeros, and of ones in a key."""
    assert philox(0, 0) == 0x6627E8D5E169C58D
    assert philox(1 << 64, 0) == philox(0, 0)   # 64 bits of the key count


@pytest.mark.parametrize(
    ("top_k", "top_p", "temperature"), [(0, 1.0, 1.0), (5, 1.0, 2.0), (0, 0.7, 1.0), (20, 0.5, 1.5)]
)
def test_draws_come_as_often_as_the_runtime_on_the_cpu_says(top_k: int, top_p: float, temperature: float) -> None:
    logits = (2 * np.random.default_rng(1).standard_normal(64)).astype(np.float32)
    ids, scores = candidates(logits / np.float32(temperature), top_k, top_p)
    want = np.zeros(64)
    want[ids] = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    draws = 4000
    drawn = [draw(logits, temperature, top_k, top_p, 7, step) for step in range(draws)]
    often = np.bincount(drawn, minlength=64) / draws
    assert set(np.unique(drawn)) <= set(ids)
    spread = np.sqrt(want * (1 - want) / draws)
    assert (np.abs(often - want) <= 4.5 * spread).all()   # 64 tokens, fixed seed: about 1 in 2,000 would fail by chance


def test_temperature_0_takes_the_likeliest() -> None:
    assert draw(np.array([1, 3, 3, 2], np.float32), 0.0, 0, 1.0, 0, 0) == 1


X, W, L = Input("x", bf16[2, 1, 256]), Input("w", bf16[8, 256]), Input("l", f32[2, 4])
Y = Input("y", f16[2, 1, 8])
F, ODD, CACHE = Input("f", f32[2, 8, 4]), Input("w", bf16[7, 256]), i8[2, 1, 4, 32]


def ids(*sizes: int) -> Input:
    return Input("ids", i32[sizes])


def decode(**other: Any) -> Op:
    given: dict[str, Any] = {"q": Input("q", f16[2, 1, 64]), "lengths": ids(2), "heads": 2}
    given |= dict.fromkeys(("key_cache", "value_cache"), Input("c", f16[2, 1, 4, 32]))
    return DecodeAttention(**(given | other))


def prefill(**other: Any) -> Op:
    given: dict[str, Any] = {"q": Input("q", f16[2, 5, 64]), "start": ids(2), "lengths": ids(2), "heads": 2}
    given |= dict.fromkeys(("key_cache", "value_cache"), Input("c", f16[2, 1, 4, 32]))
    return PrefillAttention(**(given | other))


def append(**other: Any) -> Op:
    given: dict[str, Any] = {"qkv": Input("qkv", f16[2, 1, 96]), "start": ids(2)}
    given |= dict.fromkeys(("key_cache", "value_cache"), Input("c", f16[2, 1, 4, 32]))
    return RopeAndAppend(**(given | other))


def attend(**other: Any) -> Op:
    given: dict[str, Any] = {"qkv": Input("qkv", f16[2, 1, 96]), "start": ids(2)}
    given |= dict.fromkeys(("key_cache", "value_cache"), Input("c", f16[2, 1, 4, 32]))
    return AppendAndAttend(**(given | other))


def for_norm(width: int, **other: Any) -> Op:
    given: dict[str, Any] = {"x": X, "weight": Input("w", bf16[width, 256]), "scales": None, "bias": None}
    given |= {"residual": Input("r", bf16[2, 1, width]), "gain": Input("g", bf16[width,])}
    return LinearForNorm(**(given | other))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FusedLinear(X, Input("w", bf16[8, 128])), "the last axis of x is 256, but the weight takes 128"),
        (
            lambda: FusedLinear(X, Input("w", i8[8, 256])),
            "scales is absent, but must be bf16[8], or bf16[8, G] with G a divisor of 256",
        ),
        (
            lambda: FusedLinear(X, Input("w", f8e4m3[8, 256]), Input("s", bf16[8, 3])),
            "scales is bf16[8, 3], but must be bf16[8], or bf16[8, G] with G a divisor of 256",
        ),
        (
            lambda: FusedLinear(X, Input("w", i4[8, 256]), Input("s", bf16[8, 2]), zeros=Input("z", i8[8, 2])),
            "zeros is i8[8, 2], but must be bf16[8, 2], as scales",
        ),
        (
            lambda: Dequantize(Input("w", f8e4m3[8, 256]), Input("s", bf16[8,]), Input("z", bf16[8,])),
            "cuda.fused_linear: weight is f8e4m3, but must be of integers where there are zeros",
        ),
        (lambda: FusedLinear(X, Input("w", i4[8, 64])), "the last axis of x is 256, but the weight takes 64"),
        (lambda: FusedLinear(X, Input("w", f16[8, 256])), "weight is f16, but x is bf16"),
        (
            lambda: FusedLinear(X, W, activation="tanh"),
            "activation is tanh, but must be one of silu, gelu, gelu_tanh, relu",
        ),
        (lambda: FusedLinear(X, W, None, None, X), "residual is bf16[2, 1, 256], but must be bf16[2, 1, 8]"),
        (lambda: FusedLinear(X, W, softcap=-1), "softcap is -1, but must not be negative"),
        (lambda: FusedLinear(X, W, squares=L), f"squares is {L.type}, but must be f32[2, 1, 16]"),
        (lambda: FusedLinear(X, W, squares=Input("s", f32[2, 1, 16]), eps=0), "eps is 0, but must be positive"),
        (
            lambda: FusedLinear(Input("x", bf16[2, 8]), Input("w", bf16[8, 8]), squares=L),
            "a row has 8 elements, but must have a multiple of 16",
        ),
        (lambda: for_norm(8), "a row has 8 elements, but must have a multiple of 16"),
        (lambda: for_norm(16, gain=L), f"gain is {L.type}, but the last axis of x asks for bf16[16]"),
        (lambda: for_norm(16, bias=L), f"cuda.fused_linear: bias is {L.type}, but must be bf16[16]"),
        (lambda: FusedLinear(X, ODD, activation="silu"), "weight has 7 rows, but must have an even number"),
        (lambda: FusedLinear(X, W, None, Input("b", bf16[7,])), "bias is bf16[7], but must be bf16[8]"),
        (lambda: FusedLinear(X, W, L), "weight is bf16, but must be i4, i8, f8e4m3 where there are scales"),
        (lambda: FusedLinear(X, Input("w", bf16[8])), "weight has rank 1, but must have rank 2"),
        (lambda: FusedLinear(X, Input("w", bf16["N", 256])), "weight is bf16[N, 256], but must be static"),
        (lambda: FusedLinear(Input("x", i32[2, 8]), W), "x is i32, but must be a float"),
        (lambda: Gated(Input("x", f16[2, 3])), "the last axis of x is 3, but must be even"),
        (lambda: Gated(Input("x", i32[2, 4])), "x is i32, but must be a float"),
        (lambda: Gated(X, "tanh"), "activation is tanh, but must be one of silu, gelu, gelu_tanh, relu"),
        (lambda: ArgMax(X), "x has rank 3, but must have rank 2"),
        (lambda: Sample(X, L, L, L, L, L), "logits has rank 3, but must have rank 2"),
        (lambda: Sample(ids(2, 4), L, L, L, L, L), "logits is i32, but must be a float"),
        (lambda: StopCheck(L, L, L, L, L), "tokens has rank 2, but must have rank 1"),
        (lambda: StopCheck(*5 * (Input("t", f32[2,]),)), "tokens is f32[2], but must be i32[2]"),
        (
            lambda: StopCheck(*(ids(2), ids(2), ids(2), L, ids(2))),
            "stops is f32[2, 4], but must be i32[K]",
        ),
        (lambda: Route(X, 1), "logits has rank 3, but must have rank 2"),
        (lambda: ExpertsInner(L, ids(2, 1), L, L), "fc has rank 2, but must have rank 3"),
        (lambda: ExpertsInner(L, ids(3, 1), F, F), "chosen is i32[3, 1], but must be i32[2, K]"),
        (lambda: ExpertsInner(L, ids(2, 1), F, X), "gate is bf16[2, 1, 256], but must be f32[2, 8, 4]"),
        (lambda: ExpertsOuter(L, ids(2, 1), L, L), "proj has rank 2, but must have rank 3"),
        (lambda: ExpertsOuter(L, ids(2, 1), L, F), "inner has rank 2, but must have rank 3"),
        (lambda: AddRMSNorm(X, L, W), "x is bf16[2, 1, 256], but skip is f32[2, 4]"),
        (lambda: AddLayerNorm(X, L, W), "x is bf16[2, 1, 256], but skip is f32[2, 4]"),
        (lambda: decode(q=L), "q has rank 2, but must have rank 3"),
        (lambda: decode(q=Y), "q is f16[2, 1, 8], but must be f16[2, 1, 64]"),
        (lambda: decode(key_cache=L), "key_cache has rank 2, but must have rank 4"),
        (lambda: decode(value_cache=F), "key_cache is f16[2, 1, 4, 32], but value_cache is f32[2, 8, 4]"),
        (lambda: decode(kv_heads=2), "key_cache has 1 heads, but kv_heads is 2"),
        (lambda: decode(**dict.fromkeys(("key_cache", "value_cache"), Input("c", f16[2, 3, 4, 32])), kv_heads=3),
         "heads is 2, which is no multiple of kv_heads, 3"),
        (lambda: decode(**dict.fromkeys(("key_cache", "value_cache"), Input("c", f16[2, 1, 4, "D"]))),
         "key_cache is f16[2, 1, 4, D], but its head size must be known"),
        (lambda: decode(**dict.fromkeys(("key_cache", "value_cache"), Input("c", f16[3, 1, 4, 32]))),
         "key_cache has batch 3, but must have 2"),
        (lambda: decode(**dict.fromkeys(("key_cache", "value_cache"), Input("c", bf16[2, 1, 4, 32]))),
         "key_cache is bf16, but must be f16, i8 or f8e4m3"),
        (lambda: decode(pages=L), "pages is f32[2, 4], but must be i32[2, N]"),
        (lambda: decode(pages=ids(2, 3)), "key_cache has 4 tokens a page, but must have 64"),
        (lambda: decode(lengths=L), "lengths is f32[2, 4], but must be i32[2]"),
        (lambda: decode(slopes=L), "slopes is f32[2, 4], but must be f32[2]"),
        (lambda: decode(window=-1), "window is -1, but must not be negative"),
        (lambda: decode(softcap=-1.0), "softcap is -1, but must not be negative"),
        (lambda: prefill(q=L), "q has rank 2, but must have rank 3"),
        (lambda: prefill(q=Y), "q is f16[2, 1, 8], but must be f16[2, 1, 64]"),
        (lambda: prefill(start=L), "start is f32[2, 4], but must be i32[2]"),
        (lambda: prefill(lengths=L), "lengths is f32[2, 4], but must be i32[2]"),
        (lambda: append(qkv=L), "qkv has rank 2, but must have rank 3"),
        (lambda: append(qkv=Y), "qkv is f16[2, 1, 8], but must be f16[2, 1, 96]"),
        (lambda: append(start=L), "start is f32[2, 4], but must be i32[2]"),
        (lambda: append(cos=L), "cos is f32[2, 4], but sin is absent"),
        (lambda: append(cos=L, sin=F), "cos is f32[2, 4], but sin is f32[2, 8, 4]"),
        (lambda: append(cos=F, sin=F), "cos is f32[2, 8, 4], but must be f32[P, R/2], R <= 32"),
        (lambda: attend(lengths=L), "lengths is f32[2, 4], but must be i32[2]"),
        (lambda: attend(qkv=Input("qkv", f16[2, 3, 96])),
         "cuda.decode_attention: q is f16[2, 3, 32], but must be f16[2, 1, 32]"),
        (lambda: Sample(L, L, L, L, L, L), "temperature is f32[2, 4], but must be f32[2]"),
        (
            lambda: RopeAndAppend(
                Input("qkv", f16[2, 1, 96]), Input("k", CACHE), Input("v", CACHE), Input("s", i32[2,])
            ),
            "key_scale is absent, but must be f32[1]",
        ),
    ],
)  # fmt: skip
def test_ill_typed_ops_are_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(IRError) as error:
        make()
    assert error.value.message.partition(": ")[2] == message
