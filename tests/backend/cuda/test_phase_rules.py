"""Rules of one phase: which kernels' ops stand for what, and where not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trtc.backend.cuda.phase_rules import STAGES
from trtc.backend.cuda.phases import Phase, phases
from trtc.ir.graph import Graph
from trtc.ir.sample import sample
from trtc.ir.text import parse
from trtc.ir.types import bf16
from trtc.passes.rewrite import apply

CACHED = """trtc ir 1
graph @cached(%qkv: f32[B, S, 48], %past_lengths: i32[B], %input_lengths: i32[B], %k: f32[B, 1, M, 8],
              %v: f32[B, 1, M, 8]) where B in 1..4, S in 1..8, M in 8..16 {
  %q, %keys, %values = cuda.rope_and_append %qkv, %k, %v, %past_lengths {heads = 4}
    : f32[B, S, 32], f32[B, 1, M, 8], f32[B, 1, M, 8]
  %q1 = reshape %q {sizes = [B, S, 4, 8]} : f32[B, S, 4, 8]
  %q2 = transpose %q1 {axes = [0, 2, 1, 3]} : f32[B, 4, S, 8]
  %new = size_of %qkv {axis = 1} : i32[]
  %lengths = add %past_lengths, %new : i32[B]
  %y = attention %q2, %keys, %values, lengths = %lengths {ATTRIBUTES} : f32[B, 4, S, 8]
  %z = transpose %y {axes = [0, 2, 1, 3]} : f32[B, S, 4, 8]
  return z = %z, k = %keys, v = %values
}"""


def found(graph: Graph) -> dict[str, list[str]]:
    """The ops of each phase that compute, by its name."""
    plain = ("input", "weight", "constant", "result", "reshape", "transpose", "size_of", "iota", "add", "gather")
    return {p.phase: [op.name for op in p.ops if op.name not in plain] for p in map(Named, phases(graph))}


class Named:
    def __init__(self, phase: Phase) -> None:
        self.phase, self.ops = phase.name, phase.graph.ops


def attention(attributes: str) -> Graph:
    return parse(CACHED.replace("ATTRIBUTES", attributes))


def test_attention_is_that_of_the_phase() -> None:
    got = found(attention("scale = 0.5, window = 3"))
    assert set(got) == {"decode-1", "decode-2", "decode-4", "prefill"}
    assert got["decode-2"] == ["cuda.rope_and_append", "cuda.decode_attention"]
    assert got["prefill"] == ["cuda.rope_and_append", "cuda.prefill_attention"]


WHOLE = """trtc ir 1
graph @whole(%qkv: f16[B, S, 192], %past_lengths: i32[B], %input_lengths: i32[B], %k: f16[B, 1, M, 32],
             %v: f16[B, 1, M, 32]) where B in 1..4, S in 1..8, M in 8..16 {
  %q, %keys, %values = cuda.rope_and_append %qkv, %k, %v, %past_lengths {heads = 4}
    : f16[B, S, 128], f16[B, 1, M, 32], f16[B, 1, M, 32]
  %y = cuda.prefill_attention %q, %keys, %values, %past_lengths, %input_lengths {heads = 4, scale = 0.5}
    : f16[B, S, 128]
  return y = %y, k = %keys, v = %values
}"""


@pytest.mark.parametrize(
    ("old", "new", "fused"),
    [
        ("", "", True),
        ("y = %y", "y = %y, q = %q", False),
        ("past_lengths, %input_lengths {", "input_lengths, %past_lengths {", False),
        ("%q, %keys, %values, %past", "%q, %values, %keys, %past", False),
        ("f16", "f32", False),
    ],
    ids=["whole", "q is a result", "other positions", "other caches", "no kernel"],
)
def test_rotation_update_and_attention_of_one_token_are_one(old: str, new: str, fused: bool) -> None:
    graph = parse(WHOLE.replace(old, new) if old else WHOLE)
    ops = ["cuda.append_and_attend"] if fused else ["cuda.rope_and_append", "cuda.decode_attention"]
    assert found(graph)["decode-2"] == ops
    decode = next(phase for phase in phases(graph) if phase.name == "decode-2")
    tensors = sample(graph, 1, sizes={"B": 2, "S": 1, "M": 8})
    tensors["past_lengths"][:], tensors["input_lengths"][:] = 1, 1
    want, got = graph.evaluate(tensors), decode.graph.evaluate(tensors)
    for name, array in want.items():
        np.testing.assert_allclose(got[name].astype(np.float32), array.astype(np.float32), rtol=0, atol=1e-2)


def test_attention_that_is_not_causal_stays() -> None:
    got = found(attention("scale = 0.5, causal = false"))
    assert got["decode-1"] == got["prefill"] == ["cuda.rope_and_append", "attention"]


def test_phases_mean_what_the_graph_means() -> None:
    """Where every token is real: those beyond are zeros in prefill, and anything elsewhere."""
    graph = attention("scale = 0.5, softcap = 2.0")
    for phase in phases(graph):
        sizes = {name: most for name, (_, most) in phase.bounds.items()}
        tensors = sample(graph, 1, sizes=sizes)
        tensors["input_lengths"][:] = sizes["S"]
        want, got = graph.evaluate(tensors), phase.graph.evaluate(tensors)
        for name, array in want.items():
            np.testing.assert_allclose(got[name], array, rtol=0, atol=1e-5)


LINEAR = """trtc ir 1
graph @g(%x: f16[ROWS, 32], %r: f16[ROWS, 8]) where B in 1..64 {
  %w = weight {key = "w"} : f16[16, 32]
  %p = weight {key = "p"} : f16[8, 8]
  %both = linear %x, %w : f16[ROWS, 16]
  %inner = cuda.gated %both : f16[ROWS, 8]
  %out = linear %inner, %p : f16[ROWS, 8]
  %sum = add %r, %out : f16[ROWS, 8]
  return sum = %sumMORE
}"""


def rewritten(rows: str, more: str = "") -> list[Any]:
    graph = parse(LINEAR.replace("ROWS", rows).replace("MORE", more))
    for stage in STAGES:
        graph = apply(graph, stage, "phase")
    return [op for op in graph.ops if op.name.startswith(("linear", "cuda.", "add"))]


def test_few_rows_take_activation_and_residual_along() -> None:
    first, second = rewritten("16")
    assert (first.name, first.activation, second.name) == ("cuda.fused_linear", "silu", "cuda.fused_linear")
    assert second.residual.key == "r"


@pytest.mark.parametrize("rows", ["17", "B"])
def test_many_rows_leave_the_activation_to_a_kernel_of_its_own(rows: str) -> None:
    assert [op.name for op in rewritten(rows)] == ["linear", "cuda.gated", "cuda.fused_linear"]


def test_what_is_given_out_stays() -> None:
    assert [op.name for op in rewritten("4", ", whole = %both")] == ["linear", "cuda.gated", "cuda.fused_linear"]
    assert [op.name for op in rewritten("4", ", out = %out")] == ["cuda.fused_linear", "linear", "add"]



LAST = """trtc ir 1
graph @g(%x: f32[B, S, 8], %table: f32[S, 8], %at: i32[B]) where B in 1..4, S in 1..8 {
  %w = weight {key = "w"} : f32[16, 8]
  %p = weight {key = "p"} : f32[8, 8]
  %scale = weight {key = "scale"} : f32[8]
  %first = linear %x, %p : f32[B, S, 8]
  %moved = add %first, TABLE : f32[B, S, 8]
  %normal = rms_norm %moved, %scale : f32[B, S, 8]
  %wide = linear %normal, %w : f32[B, S, 16]
  %inner = cuda.gated %wide : f32[B, S, 8]
  %out = linear %inner, %p : f32[B, S, 8]
  %sum = add %moved, %out : f32[B, S, 8]
  %y = gather %sum, %at {axis = 1, batch = 1} : f32[B, 8]
  return y = %yMORE
}"""


@pytest.mark.parametrize(("table", "more", "gathered"), [
    ("%scale", "", ["x"]),
    ("%x", "", ["x"]),
    ("%table", "", ["add"]),
    ("%scale", ", wide = %wide", ["linear", "linear"]),
    ("%scale", ", sum = %sum", ["cuda.fused_linear"]),
], ids=["all", "what is read twice", "a table of tokens", "a result between", "the sum is a result"])   # fmt: skip
def test_what_only_the_last_tokens_need_is_done_for_them_alone(table: str, more: str, gathered: list[str]) -> None:
    graph = parse(LAST.replace("TABLE", table).replace("MORE", more))
    prefill = list(phases(graph))[-1]
    looked_up: Any = [op for op in prefill.graph.ops if op.name == "gather"]
    tensors = sample(graph, 1, sizes={"B": 4, "S": 8})
    tensors["at"][:] = [7, 0, 4, 1]
    want, got = graph.evaluate(tensors), prefill.graph.evaluate(tensors)
    for name, array in want.items():
        np.testing.assert_allclose(got[name], array, rtol=0, atol=1e-5)
    assert [op.x.name if op.x.name != "input" else op.x.key for op in looked_up] == gathered


@pytest.mark.parametrize("norm", ["rms_norm", "layer_norm"])
def test_a_sum_is_made_with_its_norm(norm: str) -> None:
    graph = parse(f"""trtc ir 1
graph @g(%x: f32[B, 8], %y: f32[B, 8]) where B in 1..4 {{
  %w = weight {{key = "w"}} : f32[8]
  %sum = add %x, %y : f32[B, 8]
  %z = {norm} %sum, %w : f32[B, 8]
  return z = %z, sum = %sum
}}""")
    for stage in STAGES:
        graph = apply(graph, stage, "phase")
    assert [op.name for op in graph.ops if op.name not in ("input", "weight")] == [f"cuda.add_{norm}", "result"]


NORMED = """trtc ir 1
graph @g(%x: bf16[4, 1, 64], %r: bf16[4, 1, 64], %gain: bf16[64]) where B in 1..64 {
  %p = weight {key = "p"} : bf16[64, 64]
  %w = weight {key = "w"} : bf16[32, 64]
  %v = weight {key = "v"} : bf16[40, 64]
  %b = weight {key = "b"} : bf16[40]
  %s = weight {key = "s"} : bf16[64]
  %t = weight {key = "t"} : bf16[32]
  %own = weight {key = "own"} : bf16[64]
  %out = linear %x, %p : bf16[4, 1, 64]
  %sum = add %r, %out : bf16[4, 1, 64]
  %normal = rms_norm %sum, %own {eps = 0.01} : bf16[4, 1, 64]
  %row = reshape %normal {sizes = [4, 64]} : bf16[4, 64]
  %both = linear %row, %w : bf16[4, 32]
  %inner = cuda.gated %both : bf16[4, 16]
  %y = linear %normal, %v, bias = %b : bf16[4, 1, 40]
  return inner = %inner, y = %y, sum = %sum
}"""
INTEGERS = {
    '"p"} : bf16': '"p"} : i8', "linear %x, %p": "cuda.fused_linear %x, %p, scales = %s",
    '"w"} : bf16': '"w"} : i8', "linear %row, %w": "cuda.fused_linear %row, %w, scales = %t",
}
RESHAPED = {
    "%normal = rms_norm %sum, %own {eps = 0.01} : bf16[4, 1,": "%last = reshape %sum {sizes = [4, 64]} : bf16[4,",
    "%row = reshape %normal {sizes = [4, 64]}": "%row = rms_norm %last, %own {eps = 0.01}",
    "%y = linear": "%normal = reshape %row {sizes = [4, 1, 64]} : bf16[4, 1, 64]\n  %y = linear",
}


def normed(changes: dict[str, str]) -> tuple[Graph, Graph]:
    """A sum, its norm and the products that read it, with some changes, and what the rules make of them."""
    text = NORMED
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    graph = made = parse(text)
    for stage in STAGES:
        made = apply(made, stage, "phase")
    return graph, made


@pytest.mark.parametrize(
    "changes", [{}, INTEGERS, RESHAPED, {", sum = %sum": ""}], ids=["bf16", "i8", "reshaped before", "read by no other"]
)
def test_a_sum_is_made_for_the_products_of_its_norm(changes: dict[str, str]) -> None:
    graph, made = normed(changes)
    names = [op.name for op in made.ops if op.name.startswith("cuda.") or "norm" in op.name]
    assert names == ["cuda.linear_for_norm", "cuda.fused_linear", "cuda.fused_linear"]
    readers = [op for op in made.ops if "squares" in op.operands]
    assert [(op.attributes["activation"], op.attributes["eps"]) for op in readers] == [("silu", 0.01), ("", 0.01)]
    tensors = sample(graph, 1)
    if changes is INTEGERS:
        tensors |= {name: (tensors[name].astype(np.float32) / 64).astype(bf16.numpy) for name in "st"}
    got = made.evaluate(tensors)
    for name, array in graph.evaluate(tensors).items():
        want = array.astype(np.float32)
        scale = np.abs(want).max()   # of which the error is some steps of bf16
        np.testing.assert_allclose(got[name].astype(np.float32), want, rtol=0, atol=0.05 * scale)


@pytest.mark.parametrize("changes", [
    {"bf16": "f16"}, {"bf16": "f32"}, {"[4, ": "[17, "}, {"[4, ": "[B, "}, {"%sum, %own": "%sum, %gain"},
    {"add %r, %out": "add %r, %x"}, {"sum = %sum": "sum = %normal"}, {"sum = %sum": "sum = %row"},
    {"  return": "  %z = add %normal, %r : bf16[4, 1, 64]\n  return", "sum = %sum": "sum = %z"},
], ids=["f16", "f32", "many rows", "any rows", "a gain of the caller's", "no product", "given out",
        "given out in rows", "read by another op"])   # fmt: skip
def test_other_norms_are_launches_of_their_own(changes: dict[str, str]) -> None:
    _, made = normed(changes)
    assert sum(op.name.endswith("rms_norm") for op in made.ops) == 1
    assert not any(op.name == "cuda.linear_for_norm" or "squares" in op.operands for op in made.ops)


@pytest.mark.parametrize(("stored", "k", "ops"), [
    ("bf16", 2, ["cast", "top_k"]), ("f16", 1, ["cast", "cuda.argmax", "reshape"]), ("i32", 2, ["cast", "top_k"]),
])   # fmt: skip
def test_the_greatest_are_looked_for_in_16_bits(stored: str, k: int, ops: list[str]) -> None:
    graph = parse(f"""trtc ir 1
graph @g(%x: {stored}[B, 8]) where B in 1..4 {{
  %logits = cast %x {{to = f32}} : f32[B, 8]
  %ids = top_k %logits {{k = {k}}} : i32[B, {k}]
  return ids = %ids, logits = %logits
}}""")
    tensors = sample(graph, 1, sizes={"B": 4})
    want = graph.evaluate(tensors)
    for stage in STAGES:
        graph = apply(graph, stage, "phase")
    found = [op for op in graph.ops if op.name != "input"]
    assert sorted(op.name for op in found) == ops
    reader = next(op for op in found if op.name in ("top_k", "cuda.argmax"))
    assert str(reader.operands["x"].dtype) == ("f32" if stored == "i32" else stored)
    for name, array in graph.evaluate(tensors).items():
        np.testing.assert_array_equal(array, want[name])
