"""``trtc opt``: passes on text, and what one watches them with."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from commandline import Trtc

from trtc.ir import parse

BEFORE = """\
trtc ir 1
graph @g(%x: f32[B, 4], %y: f32[B, 4]) where B in 1..8 {
  %silu_0 = silu %x : f32[B, 4]  loc("mlp")
  %mul_0 = mul %silu_0, %y : f32[B, 4]  loc("mlp")
  %neg_0 = neg %mul_0 : f32[B, 4]
  %neg_1 = neg %neg_0 : f32[B, 4]
  return out = %neg_1
}
"""
CANONICAL = """\
trtc ir 1
graph @g(%x: f32[B, 4], %y: f32[B, 4]) where B in 1..8 {
  %silu_0 = silu %x : f32[B, 4]  loc("mlp")
  %mul_0 = mul %silu_0, %y : f32[B, 4]  loc("mlp")
  return out = %mul_0
}
"""
AFTER = """\
trtc ir 1
graph @g(%x: f32[B, 4], %y: f32[B, 4]) where B in 1..8 {
  %swiglu_0 = swiglu %x, %y : f32[B, 4]  loc("mlp")
  return out = %swiglu_0
}
"""
WRONG = """
from trtc.ir import Value
from trtc.ir.ops import Neg, SiLU
from trtc.passes import rewrite

@rewrite("wrong-in-opt")
def wrong(op: SiLU) -> Value:
    return Neg(op.x)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "g.trtc").write_text(BEFORE)
    return tmp_path / "g.trtc"


def test_text_in_text_out(trtc_: Trtc, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trtc_("opt", file, "-p", "canonicalize,fuse-swiglu") == (0, AFTER, "")
    assert trtc_("opt", file, "-p", "") == (0, BEFORE, "")
    monkeypatch.setattr("sys.stdin", io.StringIO(BEFORE))
    assert trtc_("opt", "-", "--passes", "canonicalize,fuse-swiglu", "--check") == (0, AFTER, "")
    assert trtc_("opt", file, "-p", "fuse", "-o", file.parent / "out.trtc") == (0, "", "")
    assert (file.parent / "out.trtc").read_text() == AFTER


def test_limit(trtc_: Trtc, file: Path) -> None:
    for limit, text in ((0, BEFORE), (1, CANONICAL), (2, AFTER), (9, AFTER)):
        assert trtc_("opt", file, "-p", "canonicalize,fuse-swiglu", "--limit", limit) == (0, text, "")


def test_explain(trtc_: Trtc, file: Path) -> None:
    options = ("-p", "canonicalize,fuse-swiglu", "--explain")
    said = "canonicalize applied to neg at ?\nfuse-swiglu applied to mul at mlp\n"
    assert trtc_("opt", file, *options) == (0, AFTER, said)
    _, _, err = trtc_("opt", file, *options, "--log-json")
    assert [json.loads(line)["message"] for line in err.splitlines()] == said.splitlines()
    assert trtc_("opt", file, "-p", "canonicalize") == (0, CANONICAL, "")   # silent again


def test_print_after_all(trtc_: Trtc, file: Path) -> None:
    _, out, err = trtc_("opt", file, "-p", "canonicalize,fuse-swiglu", "--print-after-all")
    assert out == AFTER
    assert err == f"// 1: after canonicalize\n{CANONICAL}\n// 2: after fuse-swiglu\n{AFTER}\n"
    for text in re.split(r"(?=^//)", err, flags=re.MULTILINE)[1:]:
        parse(text)


def test_check_finds_a_wrong_rule(trtc_: Trtc, file: Path) -> None:
    (file.parent / "wrong.py").write_text(WRONG)
    arguments = ("opt", file, "--load", file.parent / "wrong.py", "-p", "cse,wrong-in-opt,fuse")
    assert trtc_(*arguments)[0] == 0
    code, out, err = trtc_(*arguments, "--check")
    assert (code, out) == (2, "")
    assert re.match(r"error: wrong-in-opt: output out differs by [\d.]+, but must differ by [\d.e-]+ at most\n", err)
    assert trtc_(*arguments, "--check", "--limit", 1)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["none.trtc", "-p", "cse"], "none.trtc does not exist, but must be a graph as text"),
        ([".", "-p", "cse"], ". is a folder, but must be a graph as text\n  = help: trtc dump writes one"),
        (["bytes", "-p", "cse"], "bytes is not UTF-8, but must be a graph as text"),
        (
            ["bad.trtc", "-p", "cse"],
            "unknown op `rleu`\n --> bad.trtc:3:8\n  |\n3 |   %0 = rleu %x : f32[2]\n  |        ^^^^\n"
            "  = help: did you mean `relu`?",
        ),
        (
            ["good.trtc", "-p", "sce"],
            "unknown pass `sce`\n --> <pipeline>:1:1\n  |\n1 | sce\n  | ^^^\n  = help: did you mean `cse`?",
        ),
        (
            ["good.trtc", "-p", "cse,"],
            "a pass must follow the comma\n --> <pipeline>:1:4\n  |\n1 | cse,\n  |    ^",
        ),
        (
            ["good.trtc", "-p", "merge-projections{width=3}"],
            "pass `merge-projections` has no option `width`\n --> <pipeline>:1:1\n  |\n1 | merge-projections{width=3}\n"
            "  | ^^^^^^^^^^^^^^^^^\n  = its options: max-width",
        ),
    ],
)
def test_mistakes_exit_with_2(
    trtc_: Trtc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good.trtc").write_text(BEFORE)
    Path("bad.trtc").write_text("trtc ir 1\ngraph @g(%x: f32[2]) {\n  %0 = rleu %x : f32[2]\n  return out = %0\n}\n")
    Path("bytes").write_bytes(b"\xff\xfe")
    assert trtc_("opt", *arguments) == (2, "", f"error: {text}\n")


def test_a_pipeline_is_needed(trtc_: Trtc, file: Path) -> None:
    code, _, err = trtc_("opt", file)
    assert code == 2 and "Missing option '--passes' / '-p'" in err
