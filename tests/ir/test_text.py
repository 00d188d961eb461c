"""The text form loses nothing, and whatever is wrong with a text is said at its place."""

from __future__ import annotations

import math
import time
from random import Random

import pytest
from fuzz import cases
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import graphs
from testing_target import Halves

from trtc.ir.errors import IRError
from trtc.ir.graph import Graph
from trtc.ir.ops import Add, Attention, Constant, Input, ReLU, Reshape, Weight
from trtc.ir.text import parse, print_graph
from trtc.ir.types import Dim, TensorType, f32, i32, i64

B, S = Dim.named("B"), Dim.named("S")


@settings(max_examples=100)
@given(graphs())
def test_text_round_trips(graph: Graph) -> None:
    assert parse(str(graph)) == graph
    assert str(parse(str(graph))) == str(graph)
    assert parse(print_graph(graph, canonical=True)) == graph


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(TEXT, TEXT)
def test_any_string_round_trips(loc: str, key: str) -> None:
    weight = Weight(key, f32[4])
    graph = Graph("g", (), {"y": ReLU(weight, loc=loc)}, {})
    back = parse(str(graph))
    assert back == graph and str(back) == str(graph)
    assert [op.loc for op in back.ops] == ["", loc]
    found = back.ops[0]
    assert isinstance(found, Weight) and found.key == key


@given(st.lists(st.floats(), min_size=1, max_size=4))
def test_any_number_round_trips(values: list[float]) -> None:
    graph = Graph("g", (), {"y": ReLU(Constant(tuple(values), f32[len(values),]))}, {})
    found = parse(str(graph)).ops[0]
    assert isinstance(found, Constant) and parse(str(graph)) == graph
    for got, want in zip(found.values, values, strict=True):
        same = got == want and math.copysign(1, got) == math.copysign(1, want)
        assert same or (math.isnan(got) and math.isnan(want))


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4))
def test_any_integer_round_trips(values: list[int]) -> None:
    graph = Graph("g", (), {"y": Add(c := Constant(tuple(values), i64[len(values),]), c)}, {})
    found = parse(str(graph)).ops[0]
    assert isinstance(found, Constant) and found.values == tuple(values)


def test_equal_numbers_are_equal_graphs() -> None:
    one, same, minus = (Graph("g", (), {"y": Constant((v,), f32[2])}, {}) for v in (1, 1.0, -1.0))
    assert one == same and hash(one) == hash(same) and one != minus
    zero, negative = (Graph("g", (), {"y": Constant((v,), f32[2])}, {}) for v in (0.0, -0.0))
    assert zero != negative, "1 / x tells them apart"


@pytest.mark.parametrize("size", [2 * S, S + 1, 1 - S, S - B, B * S * 2 - 3, -S - 1 + 2 * B])
def test_sizes_round_trip(size: Dim) -> None:
    x = Input("x", f32["B", "S", 4])
    graph = Graph("g", (x, Input("n", TensorType(i32, (size,)))), {"y": ReLU(Reshape(x, (B * S, 4)))}, BOUNDS)
    assert parse(str(graph)) == graph


BOUNDS = {"B": (1, 8), "S": (0, 64)}


def test_an_input_may_be_named_as_an_op_would_be() -> None:
    inputs = tuple(Input(key, f32[4]) for key in ("add_0", "0", "layers.0.key_cache", "add_1"))
    total = Add(Add(inputs[0], inputs[1]), Add(inputs[2], inputs[3]))
    graph = Graph("g", inputs, {"y": total}, {})
    assert parse(str(graph)) == graph
    assert parse(print_graph(graph, canonical=True)) == graph


def test_what_a_text_looks_like() -> None:
    q, k = Input("q", f32["B", 4, "S", 8]), Input("k", f32["B", 2, "S", 8])
    lengths = Input("lengths", i32["B",])
    y = Attention(q, k, k, lengths, scale=0.125, window=7, loc="layers.0")
    first, second = Halves(y).results
    graph = Graph("g", (q, k, lengths), {"y": second, "z": first}, BOUNDS)
    assert str(graph) == """\
trtc ir 1
graph @g(%q: f32[B, 4, S, 8], %k: f32[B, 2, S, 8], %lengths: i32[B]) where B in 1..8, S in 0..64 {
  %attention_0 = attention %q, %k, %k, lengths = %lengths {scale = 0.125, window = 7} : f32[B, 4, S, 8]  loc("layers.0")
  %testing.halves_0, %testing.halves_1 = testing.halves %attention_0 : f32[B, 4, S, 4], f32[B, 4, S, 4]
  return y = %testing.halves_1, z = %testing.halves_0
}"""
    assert parse(str(graph)) == graph


def test_comments_and_space_do_not_count() -> None:
    dense = "graph @g(%x:f32[4]){%y=relu %x:f32[4]return %y}"
    spaced = "// one\ngraph @g (\n  %x : f32 [ 4 ] ) {   // two\n %y = relu %x : f32[4]\n\n return y = %y } // three"
    assert parse(dense) == parse(spaced)


# --- the parser on text that was mangled

SAMPLE = """\
trtc ir 1
graph @g(%q: f32[B, 4, S, 8], %k: f32[B, 2, 2*S + 1, 8], %n: i32[B], %x: f32[B, S, 8]) where B in 1..8, S in 1..64 {
  %a = attention %q, %k, %k, lengths = %n {scale = 0.125, causal = false, softcap = 3.5} : f32[B, 4, S, 8]  loc("l.0")
  %w = weight {key = "a \\"b\\""} : f32[4, 8]
  %l = linear %x, %w : f32[B, S, 4]
  %c = constant {values = [-1, 2.5e-3, inf, nan]} : f32[4]
  %s = slice %l {axis = 2, start = 1, size = 3} : f32[B, S, 3]
  %t = transpose %a {axes = [0, 2, 1, 3]} : f32[B, S, 4, 8]
  %r = reshape %t {sizes = [B*S, 32]} : f32[B*S, 32]
  %h, %i = testing.halves %r : f32[B*S, 16], f32[B*S, 16]
  %j = concat %s, %l {axis = 2} : f32[B, S, 7]
  %z = cast %n {to = f16} : f16[B]
  return y = %h, %i, %c, j = %j, z = %z
}
"""
PIECES = (
    *"%@]([{}):,=*+-0SZé٣", "%a", "%x", "..", "-1", "1e400", "inf", "nan", "f32", "bool", "true", '"', "\\", "//", "",
    "loc", "return", "where", "in", "relu", "concat", "result", "input", "9" * 23, "\x00", "\n", "f32[0]", "i8[3]",
    "f32[-4]", "f32[1, 1, 1, 1]", "mask = %x", "axis = 9", "a = 1..2", "i32[]",
)   # fmt: skip


@settings(max_examples=cases(3000))
@given(st.integers(0, 2**64))
def test_mangled_text_fails_with_an_error_of_ours(seed: int) -> None:
    random, text = Random(seed), SAMPLE
    for _ in range(random.randint(1, 3)):
        start = random.randrange(len(text))
        text = text[:start] + random.choice(PIECES) + text[start + random.randint(0, 6) :]
    try:
        graph = parse(text)
    except IRError as error:
        assert str(error).startswith("error: ")
    else:
        assert parse(str(graph)) == graph


def test_every_cut_of_a_text_fails_with_an_error_of_ours() -> None:
    for stop in range(len(SAMPLE.rstrip())):
        with pytest.raises(IRError):
            parse(SAMPLE[:stop])


def test_parsing_takes_time_linear_in_the_text() -> None:
    def seconds(lines: int) -> float:
        body = "\n".join(f"  %v{n + 1} = relu %v{n} : f32[B, 8]" for n in range(lines))
        text = f"graph @g(%v0: f32[B, 8]) where B in 1..8 {{\n{body}\n  return y = %v{lines}\n}}"
        start = time.process_time()
        assert str(parse(text))
        return time.process_time() - start

    seconds(100)
    few, many = min(seconds(500) for _ in range(3)), min(seconds(4000) for _ in range(3))
    assert many < few * 8 * 2.5, f"8 times the lines took {many / few:.1f} times as long"
