"""``trtc refit`` on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from commandline import MODEL, Trtc

LIMITS = ("--target", "tensorrt-rtx", "--max-batch-size", 2, "--max-input-len", 8, "--max-seq-len", 16)


def test_an_engine_gets_the_weights_of_a_checkpoint(trtc_: Trtc, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    old, new = tmp_path / "old", tmp_path / "new"
    assert trtc_("compile", MODEL, "-o", old, *LIMITS, "--weightless")[0] == 0
    code, out, err = trtc_("refit", old, MODEL, "-o", new)
    assert (code, out) == (0, "") and err.startswith(f"engine: {new}, tensorrt-rtx:1.")
    same = ("rank0/model.plan", "rank0/weights.safetensors")
    assert [(old / name).read_bytes() == (new / name).read_bytes() for name in same] == [True, True]


def test_what_is_no_engine_is_refused(trtc_: Trtc, tmp_path: Path) -> None:
    code, _, err = trtc_("refit", tmp_path / "none", MODEL)
    assert code == 2 and "is not a folder, but an engine is one" in err
