"""Pipelines as text, and rules as passes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from trtc.ir.errors import IRError, ParseError, PassError
from trtc.ir.graph import Graph
from trtc.ir.op import Op, Value
from trtc.ir.ops import Add, Exp, Input, Linear, Neg, ReLU, Softmax, Tanh, Weight
from trtc.ir.target import TARGETS, Target
from trtc.ir.types import TensorType, f32
from trtc.passes import PRESETS, Pass, Pipeline, Skip, Step, rewrite
from trtc.passes.rewrite import apply

X = Input("x", f32["B", 4])


def graph(value: Value) -> Graph:
    return Graph("g", (X,), {"y": value}, {"B": (1, 4)})


@pytest.mark.parametrize(
    "text,parsed",
    [
        ("", ""),
        ("cse", "cse"),
        (" cse ,\tcanonicalize", "cse,canonicalize"),
        ("cse{}", "cse"),
        ("merge-projections{max-width=16}", "merge-projections{max-width=16}"),
        ("merge-projections{max-width=65536}", "merge-projections"),
        ("widen{narrow=bf16 wide=f16}", "widen{narrow=bf16 wide=f16}"),
        ("widen{wide=f32  narrow=bf16}", "widen{narrow=bf16}"),
        ("fuse", PRESETS["fuse"].body),
        ("lower{target=onnx:1.2}", "rewrite-plugins{target=onnx:1.2},legalize{target=onnx:1.2},canonicalize,cse"),
    ],
)
def test_text(text: str, parsed: str) -> None:
    assert str(Pipeline.parse(text)) == parsed
    assert Pipeline.parse(parsed) == Pipeline.parse(text)


ERRORS = {
    "csee": ("csee", 0, "unknown pass `csee`", "help: did you mean `cse`?"),
    "cse,lowre{target=x}": ("lowre", 4, "unknown pass `lowre`", "help: did you mean `lower`?"),
    "cse,zzzzzz": ("zzzzzz", 4, "unknown pass `zzzzzz`"),
    "cse{width=3}": ("cse", 0, "pass `cse` has no option `width`", "its options: none"),
    "merge-projections{maxwidth=3}": (
        "merge-projections", 0, "pass `merge-projections` has no option `maxwidth`", "its options: max-width",
    ),
    "merge-projections{max-width=wide}": (
        "merge-projections", 0, "option `max-width` of `merge-projections` takes int, not `wide`",
    ),
    "widen{narrow=bf16 narrow=f16}": ("widen", 0, "pass `widen` is given the option `narrow` twice"),
    "legalize": ("legalize", 0, "pass `legalize` needs the option `target`", "help: legalize{target=...}"),
    "lower": ("lower", 0, "preset `lower` takes {target=...}"),
    "fuse{x=1}": ("fuse", 0, "preset `fuse` takes no options"),
    "cse canonicalize": ("c", 0, "expected a pass such as `cse` or `legalize{target=onnx}`"),
    "cse,,cse": (",", 4, "expected a pass such as `cse` or `legalize{target=onnx}`"),
    "cse,": (",", 3, "a pass must follow the comma"),
    "cse{": ("c", 0, "expected a pass such as `cse` or `legalize{target=onnx}`"),
}   # fmt: skip


@pytest.mark.parametrize("text", ERRORS)
def test_errors(text: str) -> None:
    marked, column, message, *notes = ERRORS[text]
    with pytest.raises(ParseError) as caught:
        Pipeline.parse(text)
    place = f" --> <pipeline>:1:{column + 1}\n  |\n1 | {text}\n  | {' ' * column}{'^' * len(marked)}"
    assert str(caught.value) == "\n".join([f"error: {message}", place, *(f"  = {n}" for n in notes)])


def test_limit_and_observers() -> None:
    steps: list[Step] = []
    before = graph(Neg(Neg(Add(ReLU(X), ReLU(X)))))
    after = Pipeline.parse("canonicalize,cse,cse").run(before, steps.append, limit=1)
    (step,) = steps
    assert (step.number, str(step.by)) == (1, "canonicalize") and step.before is before and step.after is after
    assert after == graph(Add(ReLU(X), ReLU(X))) and steps[0].seconds >= 0


def test_a_result_that_does_not_verify() -> None:
    class Broken(Pass):
        name = "broken"

        def run(self, graph: Graph) -> Graph:
            return Graph("g", (), graph.outputs, graph.bounds)

    with pytest.raises(IRError) as caught:
        Pipeline((Broken(),)).run(graph(Neg(X)))
    assert str(caught.value) == "error: %x is read but is not an input of @g\n  = in pass 1 of 1, `broken`"


def test_a_pass_name_is_taken_once() -> None:
    with pytest.raises(TypeError, match="pass name 'cse' is taken by CommonSubexpressions"):

        class Again(Pass, name="cse"):
            pass

        assert Again


def test_a_pass_name_can_stand_in_a_pipeline() -> None:
    with pytest.raises(TypeError, match="pass name 'no name' must be letters, digits and hyphens: verb-noun"):

        class NoName(Pass, name="no name"):
            pass

        assert NoName


def test_a_pass_that_returns_no_graph() -> None:
    class Forgetful(Pass):
        name = "forgetful"

        def run(self, graph: Graph) -> Graph:
            return None   # type: ignore[return-value]

    with pytest.raises(PassError) as caught:
        Pipeline((Forgetful(),)).run(graph(Neg(X)))
    said = "error: forgetful: run returned None, but must return a graph\n  = in pass 1 of 1, `forgetful`"
    assert str(caught.value) == said


def test_a_rule_whose_op_has_no_type() -> None:
    with pytest.raises(TypeError) as caught:
        rewrite("untyped")(lambda op: op)   # type: ignore[reportUnknownLambdaType]
    assert str(caught.value) == "rule <lambda> must state the kind of op that it takes: rule(op: Add)"


def test_a_rule_that_returns_something_else() -> None:
    def three(op: Neg) -> Any:
        return 3

    with pytest.raises(PassError) as caught:
        apply(graph(Neg(X)), [three], "a-pass")
    want = "must return a value, a mapping from values to values, Skip(...) or None"
    assert str(caught.value) == f"error: a-pass: rule three returned 3, but {want}"


def to_relu(op: Tanh) -> Value | Skip | None:
    """tanh(x)  ->  relu(x), but for a sum"""
    return Skip("it is a sum") if isinstance(op.x, Add) else ReLU(op.x)


def test_a_rule_applies_to_its_kind_and_says_why_not(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "trtc.rewrite"):
        made = apply(graph(Exp(Tanh(Tanh(Add(X, X), loc="a"), loc="b"))), [to_relu], "to-relu")
    assert [op.name for op in made.ops] == ["input", "add", "tanh", "relu", "exp"]
    assert next(op.loc for op in made.ops if isinstance(op, ReLU)) == "b", "what a rule makes stands where it matched"
    messages = [record.getMessage() for record in caplog.records]
    assert messages[:2] == ["to-relu skipped tanh at a: it is a sum", "to-relu applied to tanh at b"]


def undone(op: Neg) -> Value:
    """-x  ->  --(-x): makes what it matches"""
    return Neg(Neg(Neg(op.x)))


def swapped(op: Add) -> Value:
    """a + b  ->  b + a"""
    return Add(op.b, op.a)


@pytest.mark.parametrize("rule,op", [(swapped, Add(X, X)), (undone, Neg(X))])
def test_a_rule_that_does_not_terminate(rule: Callable[..., Value], op: Value) -> None:
    with pytest.raises(PassError) as caught:
        apply(graph(op), [rule], "a-pass")
    assert str(caught.value) == (
        f"error: a-pass: rule {rule.__name__} applies again and again, but must come to an end\n"
        "  = help: does it match what it makes?"
    )


class Loop(Op):
    x: Value

    def infer(self) -> TensorType:
        return self.x.type

    def decompose(self) -> Value:
        return Loop(self.x)


def test_a_decomposition_that_does_not_terminate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TARGETS, "none", lambda version: Target("none", version, "", {}))
    monkeypatch.setattr(Loop, "name", "loop")
    with pytest.raises(PassError) as caught:
        Pipeline.parse("legalize{target=none:1}").run(graph(Loop(X)))
    assert str(caught.value) == (
        "error: legalize: loop decomposes into what none:1 refuses again and again, but must come to an end\n"
        "  = in pass 1 of 1, `legalize{target=none:1}`"
    )


def test_a_rule_may_replace_several_values_and_ask_the_graph() -> None:
    def both(op: Add, graph: Graph) -> Mapping[Value, Value] | None:
        if len(graph.users[op]) != 1 or not isinstance(op.a, Tanh):
            return None
        return {op: Neg(op.b), op.a: ReLU(X)}

    tanh = Tanh(X)
    made = apply(graph(Add(Exp(Add(tanh, X)), tanh)), [both], "both")
    assert [op.name for op in made.ops] == ["input", "neg", "exp", "relu", "add"]


def test_rules_become_passes() -> None:
    from trtc.passes import PASSES

    @rewrite("testing-drop-softmax")
    def drop(op: Softmax) -> Value:
        """softmax(x)  ->  x"""
        return op.x

    try:
        assert PASSES["testing-drop-softmax"].__doc__ == "softmax(x)  ->  x"
        w = Weight("w", f32[4, 4])
        assert Pipeline.parse("testing-drop-softmax").run(graph(Softmax(Linear(X, w), 1))) == graph(Linear(X, w))
    finally:
        del PASSES["testing-drop-softmax"]
    assert drop
