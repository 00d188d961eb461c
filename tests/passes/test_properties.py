"""What holds for every graph and every pass, and that the graphs are rich enough to find planted bugs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import HypothesisWarning
from strategies import OURS, PIPELINES, graphs

from trtc.ir.errors import PassError
from trtc.ir.graph import Graph
from trtc.ir.op import Value
from trtc.ir.ops import Attention, Concat, Neg, RMSNorm, Slice, SwiGLU
from trtc.passes import Pipeline, canonicalize, fuse_attention, fuse_rms_norm, fuse_swiglu
from trtc.passes.attention_bias import read_slopes
from trtc.passes.observe import Check
from trtc.passes.rewrite import Skip

RETYPED = ("widen", "specialize")   # widen makes narrow outputs wide, specialize makes sizes numbers: on purpose


def test_every_pass_is_tested() -> None:
    assert sorted({p.name for text in PIPELINES for p in Pipeline.parse(text).passes}) == OURS


def check_pass(text: str, graph: Graph) -> None:
    pipeline = Pipeline.parse(text)
    after = pipeline.run(graph, Check(seed=0))
    if not text.startswith(RETYPED):
        assert {k: v.type for k, v in after.outputs.items()} == {k: v.type for k, v in graph.outputs.items()}
    assert [i.key for i in after.inputs] == [i.key for i in graph.inputs]
    assert pipeline.run(after) == after


@pytest.mark.parametrize("text", PIPELINES)
def test_pass_keeps_meaning_and_types_and_is_idempotent(text: str) -> None:
    @settings(max_examples=60)
    @given(graphs())
    def property(graph: Graph) -> None:
        check_pass(text, graph)

    property()


@settings(max_examples=40)
@given(graphs(most=12))
def test_pipelines_keep_meaning(graph: Graph) -> None:
    Pipeline.parse("fuse,lower{target=testing-primitives}").run(graph, Check(seed=1))


def finds(text: str) -> bool:
    """Whether the property above fails for some graph."""

    @settings(max_examples=300, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow])
    @given(graphs())
    def property(graph: Graph) -> None:
        check_pass(text, graph)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HypothesisWarning)   # of the length of the graph that it shows
        try:
            property()
        except PassError:
            return True
    return False


def swapped_swiglu(gate: Value, up: Value) -> SwiGLU:
    return SwiGLU(up, gate)


def test_swapped_operands_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuse_swiglu, "SwiGLU", swapped_swiglu)
    assert finds("fuse-swiglu")


def without_eps(x: Value, weight: Value, eps: float) -> RMSNorm:
    return RMSNorm(x, weight)


def without(name: str) -> Callable[..., Attention]:
    def attention(*operands: Value | None, **attributes: float) -> Attention:
        return Attention(*operands, **{k: v for k, v in attributes.items() if k != name})   # pyright: ignore

    return attention


def test_an_ignored_eps_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuse_rms_norm, "RMSNorm", without_eps)
    assert finds("fuse-rms-norm")


@pytest.mark.parametrize("name", ["scale", "causal", "window", "softcap"])
def test_an_ignored_attribute_of_attention_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuse_attention, "Attention", without(name))
    assert finds("fuse-attention")


def negative(*given: Any) -> Value | Skip:
    slopes = read_slopes(*given)
    return slopes if isinstance(slopes, Skip) else Neg(slopes)


def test_wrong_slopes_of_attention_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuse_attention, "read_slopes", negative)
    assert finds("fuse-attention")


def slice_of_concat_off_by_one(op: Slice) -> Value | None:
    """slice(concat(a, b), within b)  ->  slice(b), one element too early"""
    if not isinstance(op.x, Concat) or op.x.axis != op.axis:
        return None
    start = op.x.parts[0].shape[op.axis]
    if not isinstance(start, int) or not start < op.start or op.start + op.size > 2 * start:
        return None
    return Slice(op.x.parts[1], op.axis, op.start - start - 1, op.size)


def test_a_wrong_offset_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canonicalize, "RULES", (slice_of_concat_off_by_one, *canonicalize.RULES))
    assert finds("canonicalize")
