"""``trtc passes``, ``trtc ops``, ``trtc models`` and ``trtc targets``: generated, so nothing is left out."""

from __future__ import annotations

from pathlib import Path

import pytest
from commandline import Trtc

import trtc.backend.targets
from trtc.backend.backends import BACKENDS
from trtc.frontend import FAMILIES
from trtc.ir import OPS
from trtc.passes import PASSES, PRESETS

assert trtc.backend.targets   # registers the targets' own ops
OPS_IN_TEXT = sorted(set(OPS) - {"result"})
OURS = sorted(name for name, kind in PASSES.items() if kind.__module__.startswith("trtc."))


def first_words(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines() if line]


def test_every_op_is_listed_with_its_first_line(trtc_: Trtc) -> None:
    code, out, _ = trtc_("ops")
    assert code == 0 and set(OPS_IN_TEXT) <= set(first_words(out)) and "result" not in first_words(out)
    assert "rms_norm " in out and "Root-mean-square normalisation over the last axis.\n" in out
    assert all(len(line.split()) > 1 for line in out.splitlines())


@pytest.mark.parametrize("name", OPS_IN_TEXT)
def test_every_op_has_a_page(trtc_: Trtc, name: str) -> None:
    code, out, _ = trtc_("ops", name)
    assert code == 0 and out.startswith(f"{name}\n\n")


def test_the_page_of_an_op(trtc_: Trtc) -> None:
    _, out, _ = trtc_("ops", "layer_norm")
    text, decomposes, native = out.splitlines()[-3:]
    assert "    y[..., h] = (x[..., h] - mean) / sqrt(variance + eps) * weight[h] + bias[h]\n" in out
    assert text == "text        layer_norm %x, %weight, [bias = %bias] {eps: float = 1e-05}"
    assert decomposes == "decomposes  into simpler ops" and native.startswith("native to   cuda, onnx")
    assert "text        concat %parts, ... {axis: int}\n" in trtc_("ops", "concat")[1]
    assert "{sizes: tuple[Size, ...]}\ndecomposes  no, it is a primitive\n" in trtc_("ops", "reshape")[1]


def test_passes_and_presets(trtc_: Trtc) -> None:
    code, out, _ = trtc_("passes")
    passes, presets = out.split("\n\n")
    assert code == 0 and set(OURS) <= set(first_words(passes))
    assert first_words(presets) == ["presets", *(n + ("{target=...}" if n == "lower" else "") for n in PRESETS)]
    for name in OURS:
        assert trtc_("passes", name)[1].startswith(name)
    page = trtc_("passes", "merge-projections")[1]
    assert page.startswith("merge-projections{max-width: int = 65536}\n\nx @ Wq.T")
    assert "Options:\n    max_width" in page
    assert trtc_("passes", "legalize")[1].startswith("legalize{target: str}\n\n")
    assert trtc_("passes", "lower") == (
        0, f"lower{{target=...}}\n\n{PRESETS['lower'].help}\n\n  {PRESETS['lower'].body}\n", ""
    )   # fmt: skip


def test_unknown_names(trtc_: Trtc) -> None:
    assert trtc_("ops", "rms_nrom") == (2, "", "error: unknown op `rms_nrom`\n  = help: did you mean `rms_norm`?\n")
    assert trtc_("passes", "ces") == (2, "", "error: unknown pass `ces`\n  = help: did you mean `cse`?\n")


def test_models(trtc_: Trtc) -> None:
    code, out, _ = trtc_("models")
    assert code == 0 and first_words(out) == ["architecture", *sorted(FAMILIES)]
    assert all(family.features in out for family in FAMILIES.values())


def test_targets(trtc_: Trtc) -> None:
    code, out, _ = trtc_("targets")
    assert code == 0 and first_words(out) == ["target", *BACKENDS]


def test_one_target(trtc_: Trtc) -> None:
    code, out, _ = trtc_("targets", "tensorrt:8.6")
    assert code == 0 and out.startswith("tensorrt:8.6\n") and "computes  f32, f16\n" in out and "weak-types: " in out
    unknown = "error: unknown target `tensort`\n  = help: did you mean `tensorrt`?\n"
    assert trtc_("targets", "tensort") == (2, "", unknown)
    code, _, err = trtc_("targets", "tensorrt:5")
    assert code == 2 and err.startswith("error: tensorrt:5 is not supported")


def test_why_an_op_is_native(trtc_: Trtc) -> None:
    code, out, _ = trtc_("targets", "--explain", "rope")
    assert code == 0
    assert "\ntensorrt 8.6 to 10.14    decomposes: it has no rotary embedding layers, which TensorRT has" in out
    code, out, _ = trtc_("targets", "tensorrt:10.16/sm100", "--explain", "experts")
    assert code == 0 and out.startswith("tensorrt:10.16/sm100  native if ")
    unknown = "error: unknown op `rpoe`\n  = help: did you mean `rope`?\n"
    assert trtc_("targets", "--explain", "rpoe") == (2, "", unknown)


def test_the_page_of_targets_is_written(trtc_: Trtc, tmp_path: Path) -> None:
    assert trtc_("targets", "--write", str(tmp_path / "targets.md"))[0] == 0
    assert (tmp_path / "targets.md").read_text().startswith("# Targets\n")
