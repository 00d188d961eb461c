"""``trtc dump``: graphs of models and engines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from commandline import MODEL, WHAT_TO_GIVE, Trtc

from trtc.ir import parse
from trtc.passes import Pipeline

FUSED = {"rms_norm", "swiglu", "attention"}


def ops_of(text: str) -> set[str]:
    return {match[1] for match in re.finditer(r"^  %[^=]+ = ([\w.]+)", text, re.MULTILINE)}


def test_stages(trtc_: Trtc) -> None:
    texts: dict[str, str] = {}
    for stage in ("import", "fuse", "legalize"):
        code, texts[stage], err = trtc_("dump", MODEL, "--stage", stage, "--target", "onnx")
        assert (code, err) == (0, "")
        assert texts[stage] == f"{parse(texts[stage])}\n"
    assert not FUSED & ops_of(texts["import"])
    assert ops_of(texts["fuse"]) >= FUSED
    assert "onnxruntime.group_query_attention" in ops_of(texts["legalize"])
    assert Pipeline.parse("fuse").run(parse(texts["import"])) == parse(texts["fuse"])


def test_import_is_what_one_gets_unasked(trtc_: Trtc, tmp_path: Path) -> None:
    _, out, _ = trtc_("dump", MODEL)
    assert out == trtc_("dump", MODEL, "--stage", "import")[1]
    assert trtc_("dump", MODEL, "-o", tmp_path / "model.trtc") == (0, "", "")
    assert (tmp_path / "model.trtc").read_text() == out


def test_options_arrive_in_the_graph(trtc_: Trtc) -> None:
    limits = ("--max-batch-size", 2, "--max-input-len", 16, "--max-seq-len", 64)
    _, out, _ = trtc_("dump", MODEL, *limits, "--dtype", "float32", "--all-logits")
    graph = parse(out)
    assert graph.bounds == {"B": (1, 2), "M": (1, 64), "S": (1, 16)}
    assert str(graph.outputs["logits"].type) == "f32[B, S, 1024]"
    assert str(graph.outputs["layers.0.key_cache"].type) == "f32[B, 2, M, 32]"


def test_the_graph_of_an_engine(trtc_: Trtc, shakespeare: Path) -> None:
    assert trtc_("dump", shakespeare) == (0, (shakespeare / "graph.trtc").read_text(), "")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["ENGINE", "--stage", "fuse"],
            "ENGINE is an engine, which has no --stage, --target or --dtype, but a model has",
        ),
        (
            [str(MODEL), "--stage", "fused"],
            "--stage is fused, but must be one of import, fuse, legalize\n  = help: did you mean `fuse`?",
        ),
        ([str(MODEL), "-o", "none/x"], "none/x cannot be written: none is not a folder"),
        (
            ["none"],
            f"none is no directory\n{WHAT_TO_GIVE}",
        ),
    ],
)
def test_mistakes_exit_with_2(trtc_: Trtc, shakespeare: Path, arguments: list[str], text: str) -> None:
    code, out, err = trtc_("dump", *(str(shakespeare) if a == "ENGINE" else a for a in arguments))
    assert (code, out, err.replace(str(shakespeare), "ENGINE")) == (2, "", f"error: {text}\n")
