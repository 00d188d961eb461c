"""Kernels as plugins: what TensorRT is told of them, up to the call, on stand-ins of versions that have them.

`TRTC_TENSORRT_BINDINGS` may say where wheels of its bindings are unpacked, as ``10.9=FOLDER:11.4=FOLDER``: then the
``tensorrt.plugin`` that lies there is what plugins are registered with, as well.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kernel_cases import MAKES, Case, seeded
from tensorrt_api import VERSIONS
from tensorrt_evaluator import Evaluator, network_of
from tensorrt_plugins import Launched, launched, unpacked
from tensorrt_standin import standin

from trtc.backend.kernels import Kernel, Launch, Pointer, Scalar, operand, result
from trtc.backend.kernels.ops import DecodeAttention, FusedLinear, RopeAndAppend
from trtc.backend.tensorrt.plugins import Call, call_of, is_kernels
from trtc.errors import TrtcError
from trtc.expressions import evaluate
from trtc.ir import Graph, Op, bf16, f32, i4, i8, i32
from trtc.ir.ops import Input
from trtc.ir.target import target

pytest.importorskip("cuda.bindings.nvrtc")
SINCE = VERSIONS[VERSIONS.index("10.9") : VERSIONS.index("rtx 1.4")]
UNPACKED = dict(one.split("=") for one in os.environ.get("TRTC_TENSORRT_BINDINGS", "").split(":") if one)
OURS = [name for name in MAKES if isinstance(call_of(seeded(name, bf16, 0).op, 90), Call)]
OURS = [name for name in OURS if is_kernels(type(seeded(name, bf16, 0).op))]
KINDS = ["stand-in 10.9", "stand-in 11.4", *(f"bindings {version}" for version in UNPACKED)]


def having(kind: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The stand-in of a version; with TensorRT's own module of plugins, if so."""
    which, version = kind.split()
    trt = standin(version)
    if which == "bindings":
        monkeypatch.setattr(trt, "plugin", unpacked(trt, Path(UNPACKED[version])))
    return trt


def graph_of(op: Op) -> Graph:
    inputs = tuple(dict.fromkeys(v for v in op.operands.values() if isinstance(v, Input)))
    bounds = {name: (1, 4096) for v in (*inputs, op) for s in v.shape for name in re.findall("[A-Z]", str(s))}
    return Graph("g", inputs, {f"y{i}": value for i, value in enumerate(op.results)}, bounds)


def told(case: Case, trt: Any) -> tuple[Call, Evaluator, Launched]:
    """What TensorRT is told of a case's op on sm_90, and what it would launch."""
    call, network = call_of(case.op, 90), network_of(graph_of(case.op), {}, trt=trt, sm=90)
    assert isinstance(call, Call)
    layers = [network.network.get_layer(i) for i in range(network.network.num_layers)]
    (layer,) = [layer for layer in layers if "plugin" in layer.own]
    return call, network, launched(trt, layer, [case.tensors[t.name].shape for t in layer.own["inputs"]])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OURS)
def test_tensorrt_launches_what_the_launch_rule_says(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = seeded(name, bf16, 0)
    trt = having(kind, monkeypatch)
    call, network, got = told(case, trt)
    launch = call.launch
    assert (got.entry, got.block, got.shared) == (launch.entry, launch.block, launch.shared_bytes)
    assert got.grid == tuple(evaluate(e, case.sizes) for e in launch.grid)
    passed = [launch.arguments[i] for i in taken(got)]
    inputs = [case.op.operands[a.name] for a in passed if isinstance(a, Pointer) and a.kind == "operand"]
    numbers = [a.value for a in passed if isinstance(a, Scalar)]
    layer = next(y.own["layer"] for y in network.network.own["outputs"])
    assert [v.key for v in inputs if isinstance(v, Input)] == [t.name for t in layer.own["inputs"]]
    assert got.numbers == tuple(evaluate(e, case.sizes) for e in numbers if not isinstance(e, float))
    results = [result(i) for i in range(len(case.op.types))]
    assert passed == [*map(operand, call.operands), *(a for a in passed if isinstance(a, Scalar)), *results]


def taken(got: Launched) -> list[int]:
    """The places that the parameters of the PTX had in the kernel's source, in the order that they have now."""
    match = re.search(rf"\.entry {got.entry}\((.*?)\)", got.ptx, re.DOTALL)
    assert match
    return [int(n) for n in re.findall(r"_param_(\d+)", match[1])]


@pytest.mark.parametrize("version", ["10.9", "10.13", "11.0"])
@pytest.mark.parametrize("name", OURS)
def test_a_network_with_a_plugin_means_what_the_op_means(name: str, version: str) -> None:
    case = seeded(name, bf16, 1)
    got = network_of(graph_of(case.op), {}, trt=standin(version), sm=90)(case.tensors)
    for array, want in zip(got.values(), case.evaluate(), strict=True):
        np.testing.assert_array_equal(np.asarray(array, np.float64), np.asarray(want, np.float64))


@pytest.mark.skipif(not shutil.which("ptxas"), reason="CUDA's assembler is not installed")
@pytest.mark.parametrize("name", OURS)
def test_the_assembler_takes_the_ptx(name: str, tmp_path: Path) -> None:
    call = call_of(seeded(name, bf16, 0).op, 90)
    assert isinstance(call, Call)
    code, cubin = tmp_path / "kernel.ptx", tmp_path / "kernel.cubin"
    code.write_text(call.ptx(90))
    subprocess.run(["ptxas", "-arch=sm_90", "-O0", code, "-o", cubin], check=True)
    assert cubin.read_bytes().startswith(b"\x7fELF")
