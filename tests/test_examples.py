"""The pass of a user in examples/custom_pass.py, through the real commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from commandline import EXAMPLE, MODEL

TEXT = """\
trtc ir 1
graph @mlp(%gate: f32[B, 4], %up: f32[B, 4], %wide: bf16[B, 4]) where B in 1..8 {
  %swiglu_0 = swiglu %gate, %up : f32[B, 4]  loc("layers.0")
  %swiglu_1 = swiglu %wide, %wide : bf16[B, 4]  loc("layers.1")
  return first = %swiglu_0, second = %swiglu_1
}
"""
EXPANDED = """\
trtc ir 1
graph @mlp(%gate: f32[B, 4], %up: f32[B, 4], %wide: bf16[B, 4]) where B in 1..8 {
  %sigmoid_0 = sigmoid %gate : f32[B, 4]  loc("layers.0")
  %mul_0 = mul %gate, %sigmoid_0 : f32[B, 4]  loc("layers.0")
  %mul_1 = mul %mul_0, %up : f32[B, 4]  loc("layers.0")
  %swiglu_0 = swiglu %wide, %wide : bf16[B, 4]  loc("layers.1")
  return first = %mul_1, second = %swiglu_0
}
"""


def trtc(folder: Path, *arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trtc", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(MODEL.parents[1])}
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, cwd=folder, env=environment, check=False
    )


def test_opt_loads_it(tmp_path: Path) -> None:
    done = trtc(tmp_path, "opt", "-", "--load", EXAMPLE, "-p", "expand-swiglu", "--check", "--explain", stdin=TEXT)
    assert (done.returncode, done.stdout) == (0, EXPANDED)
    assert done.stderr.splitlines()[:2] == [
        "expand-swiglu applied to swiglu at layers.0",
        "expand-swiglu skipped swiglu at layers.1: bf16 would be rounded twice more",
    ]


def test_its_docstring_is_its_page(tmp_path: Path) -> None:
    done = trtc(tmp_path, "passes", "expand-swiglu", "--load", EXAMPLE)
    assert (done.returncode, done.stderr) == (0, "")
    assert "swiglu(gate, up)  ->  gate * sigmoid(gate) * up" in done.stdout


def test_compile_loads_it(tmp_path: Path) -> None:
    options = ("--target", "onnx", "--load", EXAMPLE, "--passes", "fuse,expand-swiglu")
    done = trtc(tmp_path, "compile", MODEL, "-o", "mine", *options)
    assert (done.returncode, done.stdout) == (0, "") and done.stderr.startswith("engine: mine, onnx:")
    ops = re.findall(r" = ([\w.]+)", (tmp_path / "mine" / "graph.trtc").read_text())
    assert ops.count("sigmoid") == 7 and "swiglu" not in ops and "silu" not in ops
    run = trtc(tmp_path, "run", "mine", "--prompt", "ROMEO:", "--max-new-tokens", 8)
    plain = trtc(tmp_path, "compile", MODEL, "-o", "plain", "--target", "onnx", "--quiet")
    assert plain.returncode == 0
    assert run.stdout == trtc(tmp_path, "run", "plain", "--prompt", "ROMEO:", "--max-new-tokens", 8).stdout


def test_it_is_15_lines() -> None:
    code = EXAMPLE.read_text().split('"""', 2)[2]
    assert len([line for line in code.splitlines() if line]) <= 15
