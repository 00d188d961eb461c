"""The kernel of a user in examples/custom_kernel.py."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trtc.backend.kernels import Kernel, find
from trtc.ir.op import OPS, Op, Value
from trtc.ir.ops import Input
from trtc.ir.types import bf16, f32
from trtc.plugins import load_file

EXAMPLE = Path(__file__).parents[1] / "examples" / "custom_kernel.py"
TEXT = """\
trtc ir 1
graph @mlp(%x: f32[B, 4]) where B in 1..8 {
  %relu_0 = relu %x : f32[B, 4]
  %mul_0 = mul %relu_0, %relu_0 : f32[B, 4]  loc("layers.0")
  return y = %mul_0
}
"""


def test_opt_loads_it(tmp_path: Path) -> None:
    options = ("--load", str(EXAMPLE), "-p", "fuse-relu-squared", "--check", "--explain")
    done = subprocess.run(
        [sys.executable, "-m", "trtc", "opt", "-", *options], input=TEXT, capture_output=True, text=True,
        cwd=EXAMPLE.parents[1], check=False,
    )   # fmt: skip
    assert done.returncode == 0, done.stderr
    assert '  %example.relu_squared_0 = example.relu_squared %x : f32[B, 4]  loc("layers.0")\n' in done.stdout
    assert done.stderr.splitlines()[0] == "fuse-relu-squared applied to mul at layers.0"


@pytest.fixture(name="kind")
def loaded() -> Callable[[Value], Op]:
    load_file(EXAMPLE)
    kind: Any = OPS["example.relu_squared"]
    return kind


def test_the_registry_has_it(kind: Callable[[Value], Op]) -> None:
    pytest.importorskip("cuda.bindings.nvrtc")
    op = kind(Input("x", f32["B", 4]))
    found = find(op, 90)
    assert isinstance(found, Kernel) and found.launch(op).grid == ("ceildiv(B*4, 256)", 1, 1)
    assert found.compile(op, 90).cubin.startswith(b"\x7fELF")
    assert find(kind(Input("x", bf16["B", 4])), 90) == "x is bf16, but must be f32"


def test_it_means_what_its_parts_mean(kind: Callable[[Value], Op]) -> None:
    x = np.array([[-1, 0, 2, 3]], np.float32)
    np.testing.assert_array_equal(kind(Input("x", f32[1, 4])).evaluate(x), [[0, 0, 4, 9]])
