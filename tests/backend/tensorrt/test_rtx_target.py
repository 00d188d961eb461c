"""The record of TensorRT-RTX: what it takes, what it refuses, and its versions."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from trtc.backend.tensorrt import target as records
from trtc.backend.tensorrt.attention_rules import mask_attention, pad_heads, pad_values
from trtc.backend.tensorrt.target import tensorrt, tensorrt_rtx
from trtc.ir import DType, Op, bf16, bool_, f16, f32, i8, i32
from trtc.ir.ops import Add, Attention, Cast, Embedding, Gather, Input, KVCacheUpdate, Neg, RMSNorm, Slice, TopK
from trtc.ir.target import target

Q, K, V = Input("q", f16["B", 4, "S", 64]), Input("k", f16["B", 2, 32, 64]), Input("v", f16["B", 2, 32, 64])
LENGTHS, MASK = Input("lengths", i32["B"]), Input("mask", bool_["S", 32])
NEW = Input("new", f16["B", 2, "S", 64])
ODD = Input("q", f16["B", 2, "S", 20])
TABLE, BYTES = Input("table", f16[9, 4]), Input("bytes", i8["B", 4])
REFUSED: list[tuple[Op, str]] = [
    (Attention(Q, K, V, softcap=30.0), "softcap is 30, but must be 0"),
    (Attention(Q, K, V, window=8), "window is 8, but must be 0"),
    (Attention(Q, K, V, slopes=Input("slopes", f32[4])), "its scores have slopes"),
    (Attention(Q, K, V, LENGTHS, MASK, causal=False), "a mask stands beside causal or lengths"),
    (Attention(ODD, ODD, ODD), "q has 16-bit heads of 20, but must have a multiple of 8"),
    (Attention(Q, K, Input("w", f16["B", 2, 32, 32])), "q has head size 64, but v has 32"),
    (KVCacheUpdate(Neg(K), NEW, LENGTHS), "the cache is not an input of the graph"),
    (KVCacheUpdate(Input("c", f16["B", 2, "M", 64]), NEW, LENGTHS), "the capacity is M, but must be a number"),
    (Add(BYTES, BYTES), "a is i8, but must be f32 or f16 or bf16 or i32 or i64"),
    (Cast(LENGTHS, i8), "it makes i8, but must make f32 or f16 or bf16 or i32 or i64 or bool"),
    (Gather(Input("x", f16["B", 2, 9]), Input("i", i32["B", 2]), axis=2, batch=2), "batch is 2, but must be 0 or 1"),
    (Gather(TABLE, BYTES), "it looks up f16 by i8, but must look up numbers by i32 or i64"),
    (Embedding(TABLE, BYTES), "it looks up f16 by i8, but must look up floats by i32 or i64"),
    (Neg(Input("x", f32[(1,) * 9])), "it has rank 9, but must have 8 at most"),
]


@pytest.mark.parametrize(("op", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_refusals(op: Op, reason: str) -> None:
    assert tensorrt_rtx("").refuses(op) == reason


def test_more_than_a_layer_finds_are_refused() -> None:
    x = Input("x", f32["B", 5000])
    assert tensorrt_rtx("").refuses(TopK(x, 3840)) is None
    assert tensorrt_rtx("").refuses(TopK(x, 3841)) == "k is 3841, but must be 3840 at most"


def test_what_is_no_layer_is_decomposed() -> None:
    x = Input("x", bf16["B", 4])
    assert tensorrt_rtx("1.7").refuses(RMSNorm(x, Input("w", bf16[4]))) == f"{tensorrt_rtx('')} has no rms_norm"


def test_masks_of_all_kinds_become_one() -> None:
    rule = mask_attention
    for lengths, mask, causal, window in ((None, None, True, 8), (LENGTHS, MASK, True, 0), (LENGTHS, MASK, False, 0)):
        made = rule(Attention(Q, K, V, lengths, mask, causal=causal, window=window))
        assert isinstance(made, Attention) and tensorrt_rtx("").refuses(made) is None and rule(made) is None
    assert rule(Attention(Q, K, V, LENGTHS)) is None
    assert rule(Attention(Q, K, V, softcap=1.0, window=8)) is None
    assert rule(Attention(Q, K, V, slopes=Input("slopes", f32[4]), window=8)) is None


HEADS = [(f16, 20, 24), (bf16, 6, 8), (f16, 64, 0), (f16, 300, 0), (f32, 20, 0)]


@pytest.mark.parametrize(("dtype", "head", "padded"), HEADS)
def test_heads_of_odd_sizes_are_padded(dtype: DType, head: int, padded: int) -> None:
    q, k = Input("q", dtype["B", 4, "S", head]), Input("k", dtype["B", 2, 32, head])
    made = pad_heads(Attention(q, k, k))
    if padded:
        assert isinstance(made, Slice) and made.size == head
        assert made.x.shape[3] == padded and isinstance(made.x, Attention) and pad_heads(made.x) is None
    assert (made is None) == (padded == 0)


def says(version: str) -> Callable[[str], str]:
    """What says this of the installed version of any product."""
    return lambda product: version


def test_a_version_is_the_installed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "installed_version", says("1.7.1.116"))
    assert str(target("tensorrt-rtx")) == str(target("tensorrt-rtx:1.7")) == "tensorrt-rtx:1.7.1.116"
    assert str(target("tensorrt-rtx:1.6")) == "tensorrt-rtx:1.6"


def test_without_the_package_the_record_is_of_the_newest_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "installed_version", says(""))
    assert str(tensorrt_rtx("")) == "tensorrt-rtx:1.7"
    assert str(tensorrt("")) == "tensorrt:11.4"


def test_values_of_narrower_heads_are_padded() -> None:
    narrow, wide = Input("v", f16["B", 2, 32, 32]), Input("v", f16["B", 2, 32, 128])
    made = pad_values(Attention(Q, K, narrow, LENGTHS))
    assert isinstance(made, Slice) and made.size == 32 and isinstance(made.x, Attention)
    assert made.x.v.shape == K.shape and pad_values(made.x) is None
    assert pad_values(Attention(Q, K, wide)) is None and pad_values(Attention(Q, K, narrow, softcap=2.0)) is None
