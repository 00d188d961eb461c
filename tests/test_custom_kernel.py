"""The kernel of a user in examples/custom_kernel.py."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest

from trtc.backend.kernels import Kernel, find, kernel
from trtc.errors import TrtcError
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


def test_a_launch_passes_what_the_kernel_takes(kind: Callable[[Value], Op]) -> None:
    pytest.importorskip("cuda.bindings.nvrtc")
    op = kind(Input("x", f32["B", 4]))
    found = find(op, 90)
    assert isinstance(found, Kernel) and found.machine_code(found.launch(op), 90).startswith(b"\x7fELF")
    for wrong, said in {
        "arguments": (
            found.launch(op).arguments[:2],
            "the launch of relu_squared passes 2 arguments, but the kernel takes 3",
        ),
        "entry": ("relu", 'the kernel\'s source has no extern "C" __global__ function relu'),
    }.items():
        with pytest.raises(TrtcError) as error:
            found.machine_code(replace(found.launch(op), **{wrong: said[0]}), 90)
        assert error.value.message == said[1]


def test_a_launch_rule_whose_op_has_no_type() -> None:
    with pytest.raises(TrtcError) as error:
        kernel("custom_kernel.cu")(lambda op: op)   # type: ignore[reportUnknownLambdaType]
    assert error.value.message == "launch rule <lambda> must state the kind of op that it takes: rule(op: Add)"


def test_an_engine_with_it_is_inspected_and_dumped(tmp_path: Path) -> None:
    pytest.importorskip("cuda.bindings.nvrtc")
    model = models.write(models.Case("squared", {"num_key_value_heads": 2}, model="Nemotron"), tmp_path / "model")
    run("compile", model, "-o", tmp_path / "engine", "--target", "cuda:90", "--dtype", "float32", "--max-seq-len", 32,
        "--load", EXAMPLE, "--passes", "fuse,fuse-relu-squared")   # fmt: skip
    for command in ("inspect", "dump"):
        assert "example.relu_squared" in run(command, tmp_path / "engine", "--load", EXAMPLE).stdout
    assert "example.relu_squared" in run("inspect", tmp_path / "engine", "--layers", "--load", EXAMPLE).stdout
    done = run("dump", tmp_path / "engine", code=2)
    assert done.stderr.startswith("error: unknown op `example.relu_squared`\n")
    assert done.stderr.endswith("  = help: --load FILE, if it is an op of yours\n")


def run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, where nothing is loaded yet."""
    done = subprocess.run(
        [sys.executable, "-m", "trtc", *map(str, arguments)], capture_output=True, text=True, cwd=EXAMPLE.parents[1],
        check=False,
    )   # fmt: skip
    assert done.returncode == code, done.stderr
    return done
