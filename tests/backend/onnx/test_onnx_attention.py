"""ONNX Runtime's attention kernel: what it means, when it is used, and that caches stay where they are."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx_engine
import pytest

import trtc
from trtc.backend import targets
from trtc.backend.onnx.ops import GroupQueryAttention
from trtc.ir import ops as o
from trtc.ir.graph import Graph
from trtc.ir.op import Value
from trtc.ir.types import Dim, TensorType, bool_, f16, f32, i32
from trtc.ir.types import evaluate as value_of
from trtc.passes import Pipeline
from trtc.runtime.onnx import OnnxSession

B, S, M = Dim.named("B"), Dim.named("S"), Dim.named("M")
BOUNDS = {"B": (1, 4), "S": (1, 16), "M": (1, 16)}
CALLS = {   # sizes, and the tokens in each sequence's cache
    "prefill": ({"B": 3, "S": 5, "M": 9}, [0, 0, 0]),
    "decode": ({"B": 3, "S": 1, "M": 9}, [0, 4, 8]),   # the last has its last slot filled
    "all of the capacity": ({"B": 2, "S": 9, "M": 9}, [0, 0]),
    "more of one sequence": ({"B": 1, "S": 3, "M": 9}, [4]),
}


def kernel(
    heads: int, kv_heads: int, size: int, turned: int = 0, *, slopes: bool = False, **attributes: Any
) -> Graph:
    types = {
        "qkv": f32["B", "S", (heads + 2 * kv_heads) * size], "key": f32["B", kv_heads, "M", size],
        "value": f32["B", kv_heads, "M", size], "lengths": i32["B"],
        **({"cos": f32[16, turned // 2], "sin": f32[16, turned // 2]} if turned else {}),
        **({"slopes": f32[heads]} if slopes else {}),
    }   # fmt: skip
    inputs = tuple(o.Input(key, of) for key, of in types.items())
    given: dict[str, Any] = {"key_cache": inputs[1], "value_cache": inputs[2], **{i.key: i for i in inputs}}
    operands = {f.name: given[f.name] for f in GroupQueryAttention.fields if f.name in given}
    op = GroupQueryAttention(**operands, heads=heads, kv_heads=kv_heads, **attributes)
    key, value = op.results[1:]
    return Graph("kernel", inputs, {"y": op, "key": key, "value": value}, BOUNDS)


@pytest.mark.parametrize(("sizes", "past"), CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(
    "attributes",
    [{}, {"scale": 0.3}, {"scale": 0.3, "window": 3}, {"window": 3}, {"scale": 0.3, "softcap": 2.0},
     {"softcap": 1.0, "window": 2}, {"scale": 0.5, "interleaved": True}, {"slopes": True},
     {"slopes": True, "scale": 0.3, "window": 3}, {"slopes": True, "softcap": 2.0}, {"slopes": True, "flash": False}],
    ids=str,
)   # fmt: skip
@pytest.mark.parametrize(
    "shape", [(4, 2, 8), (2, 2, 24), (4, 2, 16, 16), (4, 1, 32, 32), (4, 1, 32, 16)], ids="heads{}".format
)
def test_the_kernel_means_what_the_op_says(
    shape: tuple[int, ...], attributes: dict[str, Any], sizes: dict[str, int], past: list[int], tmp_path: Path
) -> None:
    """With and without rotation, scale, window and cap; slots of a cache beyond a sequence may hold anything."""
    graph = kernel(*shape, **attributes)
    random = np.random.default_rng(len(past) + shape[2])
    feeds: dict[str, Any] = {
        i.key: random.uniform(-1, 1, [value_of(s, sizes) for s in i.shape]).astype(np.float32) for i in graph.inputs
    }
    feeds["lengths"] = np.array(past, np.int32) + sizes["S"]
    got, want = onnx_engine.run(graph, feeds, tmp_path), graph.evaluate(feeds)
    np.testing.assert_allclose(got["y"], want["y"], atol=2e-6)   # f32, sums of 9 terms
    for name in ("key", "value"):
        for row, length in enumerate(feeds["lengths"]):
            np.testing.assert_allclose(got[f"{name}.next"][row, :, :length], want[name][row, :, :length], atol=1e-6)


@pytest.mark.parametrize("past", [[2, 2], [0, 3]])
def test_several_tokens_on_top_of_several_caches_are_refused(past: list[int], tmp_path: Path) -> None:
    """The limit that the target's docstring states: an error, never a wrong number."""
    graph = kernel(4, 2, 16, 16)
    feeds: dict[str, Any] = {
        i.key: np.zeros([value_of(s, {"B": 2, "S": 3, "M": 9}) for s in i.shape], i.dtype.numpy) for i in graph.inputs
    }
    feeds["lengths"] = np.array(past, np.int32) + 3
    with pytest.raises(Exception, match="batch_size must be 1 when sequence_length > 1 and past context is given"):
        onnx_engine.run(graph, feeds, tmp_path)


@dataclass(frozen=True)
class Plain:
    """An attention layer over a cache, in the ops that fuse-attention leaves behind, with one thing different."""

    size: int = 16
    mask: bool = False
    causal: bool = True
    lengths: str = "past + new"
    starts: str = "one"
    caches: str = "inputs"
    rope: str = "q and k"
    slopes: bool = False
    turned: int = 16
    dtype: Any = f32
    inputs: dict[str, o.Input] = field(default_factory=dict[str, o.Input], compare=False)

    def input(self, key: str, of: TensorType) -> o.Input:
        return self.inputs.setdefault(key, o.Input(key, of))

    def graph(self) -> Graph:
        past = self.input("past", i32["B"])
        q, k, v = self._turned(self._heads("q", 4), self._heads("k", 2), self._heads("v", 2), past)
        cache = {n: self.input(f"{n}_cache", self.dtype["B", 2, "M", self.size]) for n in "kv"}
        held: dict[str, Value] = {**cache}
        if self.caches != "inputs":
            held["k"] = o.Neg(held["k"])
        other = self.input("other", i32["B"]) if self.starts != "one" else past
        keys, values = o.KVCacheUpdate(held["k"], k, past), o.KVCacheUpdate(held["v"], v, other)
        lengths = o.Add(past, o.SizeOf(q, 2)) if self.lengths == "past + new" else self.input("lengths", i32["B"])
        mask = self.input("mask", bool_["B", 1, "S", "M"]) if self.mask else None
        slopes = o.Constant((1.0, 0.5, 0.25, 0.125), f32[4]) if self.slopes else None
        y = o.Attention(q, keys, values, lengths, mask, slopes, scale=0.25, causal=self.causal)
        outputs: dict[str, Value] = {"y": y, "k_cache": keys, "v_cache": values}
        return Graph("layer", tuple(self.inputs.values()), outputs, BOUNDS)

    def _heads(self, key: str, heads: int) -> Value:
        flat = self.input(key, self.dtype["B", "S", heads * self.size])
        return o.Transpose(o.Reshape(flat, (B, S, heads, self.size)), (0, 2, 1, 3))

    def _turned(self, q: Value, k: Value, v: Value, past: Value) -> tuple[Value, ...]:
        half = self.turned // 2
        at = o.Add(o.Reshape(past, (B, 1)), o.Iota(S))
        tables = [o.Constant(tuple(np.linspace(-1, 1, 16 * half)), f32[16, half]), o.Weight("sin", f32[16, half])]
        cos, sin = (o.Gather(t, at) if self.dtype == f32 else o.Cast(o.Gather(t, at), self.dtype) for t in tables)
        turn = {"q and k": "qk", "q": "q", "v too": "qkv", "none": ""}[self.rope]
        return tuple(o.Rope(x, cos, sin) if n in turn else x for n, x in (("q", q), ("k", k), ("v", v)))

    def feeds(self, sizes: dict[str, int], past: list[int]) -> dict[str, Any]:
        random = np.random.default_rng(0)
        found: dict[str, Any] = {
            i.key: random.uniform(-1, 1, [value_of(s, sizes) for s in i.shape]).astype(i.dtype.numpy)
            for i in self.inputs.values()
        }
        new = {"past": np.array(past, np.int32), "other": np.array(past, np.int32)}
        new["lengths"] = new["past"] + sizes["S"]
        mask = {"mask": np.ones((sizes["B"], 1, sizes["S"], sizes["M"]), np.bool_)}
        return {**found, **{k: a for k, a in (new | mask).items() if k in found}}


assert "onnx" in targets.TARGETS
WEIGHTS: dict[str, Any] = {"sin": np.sin(np.arange(16 * 8)).reshape(16, 8).astype(np.float32)}
PLUGINS = Pipeline.parse("rewrite-plugins{target=onnx},legalize{target=onnx},canonicalize,cse")


@pytest.mark.parametrize(
    ("layer", "fused", "turned_inside", "why"),
    [
        (Plain(), True, True, ""),
        (Plain(dtype=f16), True, True, ""),
        (Plain(size=32, turned=16), True, True, ""),
        (Plain(rope="none"), True, False, ""),
        (Plain(rope="q"), True, False, ""),
        (Plain(rope="v too"), True, True, ""),
        (Plain(size=24), True, False, ""),
        (Plain(slopes=True), True, True, ""),
        (Plain(slopes=True, dtype=f16, rope="none"), True, False, ""),
        (Plain(size=20), False, False, (
            "head size is 20, but must be a multiple of 8, and the same for keys and values"
        )),
        (Plain(size=20, slopes=True), False, False, (
            "head size is 20, but must be a multiple of 8, and the same for keys and values"
        )),
        (Plain(mask=True), False, False, "it is not causal, or has a mask besides"),
        (Plain(causal=False), False, False, "it is not causal, or has a mask besides"),
        (Plain(lengths="given"), False, False, "its lengths are not those of the caches plus the new tokens"),
        (Plain(starts="two"), False, False, (
            "its caches are no inputs of the graph, or are updated from different positions"
        )),
        (Plain(caches="negated"), False, False, (
            "its caches are no inputs of the graph, or are updated from different positions"
        )),
    ],
)   # fmt: skip
def test_when_the_kernel_is_used(
    layer: Plain, fused: bool, turned_inside: bool, why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    graph = layer.graph()
    with caplog.at_level(logging.INFO, "trtc.rewrite"):
        legal = PLUGINS.run(graph)
    kernels = [op for op in legal.ops if isinstance(op, GroupQueryAttention)]
    assert (len(kernels) == 1, bool(kernels and kernels[0].cos)) == (fused, turned_inside)
    assert why in caplog.text and ("skipped attention" in caplog.text) == bool(why)
    for sizes, past in CALLS.values():
        feeds = {k: a.astype(np.float32) if a.dtype == np.float16 else a for k, a in layer.feeds(sizes, past).items()}
        want = graph.evaluate({**layer.feeds(sizes, past), **WEIGHTS})
        got = onnx_engine.run(legal, feeds, tmp_path, WEIGHTS)
        atol = 2e-6 if layer.dtype == f32 else 2e-3   # f16 has 11 bits
        np.testing.assert_allclose(got["y"], want["y"].astype(np.float32), atol=atol)


@pytest.mark.parametrize("name", ["gqa-tied-head16", "mqa-bias-head20"], ids=["kernel", "primitive attention"])
def test_caches_stay_where_they_are(name: str, tmp_path: Path) -> None:
    """ONNX Runtime gets and gives a cache at one address, and a step changes only the slot that it fills."""
    bundle = trtc.compile(models.checkpoint(name), tmp_path / "engine", target="onnx", **models.LIMITS)
    session: Any = OnnxSession(bundle, 1)
    session.start(2, 16)
    caches = [t.name for t in bundle.ranks[0].inputs if t.name.endswith("_cache")]
    assert [t.alias for t in bundle.ranks[0].outputs if t.alias] == caches and len(caches) == 4
    for cache in caches:
        session._buffers[cache][...] = 7   # what no step has filled yet
    ids = np.array([[1, 2, 3], [4, 5, 6]], np.int32)
    session.forward(ids, np.array([3, 2], np.int32), np.zeros(2, np.int32))
    before = {cache: session._buffers[cache].copy() for cache in caches}
    addresses = {cache: session._buffers[cache].ctypes.data for cache in caches}
    session.forward(ids[:, :1], np.ones(2, np.int32), np.array([3, 2], np.int32))
    names = [o.name for o in session._session.get_outputs()]
    outputs = dict(zip(names, session._steps[1].binding.get_outputs(), strict=True))
    for cache in caches:
        after = session._buffers[cache]
        assert outputs[f"{cache}.next"].data_ptr() == addresses[cache] == after.ctypes.data
        changed = (after != before[cache]).any((1, 3))
        assert changed.tolist() == [[slot == 3 for slot in range(16)], [slot == 2 for slot in range(16)]]
        assert (after[:, :, 4:] == 7).all()


def test_the_last_slot_of_the_largest_batch(tmp_path: Path) -> None:
    """max_batch_size sequences are filled to max_seq_len, the last token by itself, as one sequence alone gives."""
    limits: dict[str, Any] = {"max_batch_size": 3, "max_input_len": 6, "max_seq_len": 7}
    bundle = trtc.compile(models.checkpoint("yarn"), tmp_path / "engine", target="onnx", **limits)
    ids = np.random.default_rng(0).integers(0, 97, (3, 7)).astype(np.int32)
    session = OnnxSession(bundle, 1)
    session.start(3, 7)
    session.forward(ids[:, :6], np.full(3, 6, np.int32), np.zeros(3, np.int32))
    last = session.forward(ids[:, 6:], np.ones(3, np.int32), np.full(3, 6, np.int32))
    torch = models.torch
    with torch.no_grad():
        want = models.load(models.checkpoint("yarn"))(torch.tensor(ids.astype(np.int64))).logits[:, -1].numpy()
    np.testing.assert_allclose(last, want, atol=5e-5)
