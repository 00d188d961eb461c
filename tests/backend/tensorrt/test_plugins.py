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
from kernel_cases import Case, seeded
from kernel_cases_linear import MAKES
from tensorrt_api import VERSIONS
from tensorrt_evaluator import Evaluator, network_of
from tensorrt_plugins import Launched, launched, unpacked
from tensorrt_standin import standin

from trtc.backend.kernels import KERNELS, Kernel, Launch, Pointer, Scalar, count, operand, result
from trtc.backend.kernels.ops import AddRMSNorm, ArgMax, DecodeAttention, FusedLinear, Gated, RopeAndAppend
from trtc.backend.tensorrt.plugins import Call, call_of, is_kernels
from trtc.expressions import evaluate
from trtc.ir import Graph, IRError, Op, bf16, f32, i4, i32
from trtc.ir.ops import Input, Neg
from trtc.ir.target import target

pytest.importorskip("cuda.bindings.nvrtc")
SINCE = VERSIONS[VERSIONS.index("10.9") : VERSIONS.index("rtx 1.4")]
UNPACKED = dict(one.split("=") for one in os.environ.get("TRTC_TENSORRT_BINDINGS", "").split(":") if one)
CASES = {name: seeded(name, bf16, 0).op for name in MAKES}
OURS = [name for name, op in CASES.items() if is_kernels(type(op)) and isinstance(call_of(op, 90), Call)]
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


@pytest.mark.parametrize("kind", KINDS)
def test_expressions_of_every_sign(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    signs = ("max(1, min(64, 2*B - 1))", "ceildiv(7 + B, 3)*min(B, 2)", "max(B, 6) - min(9, B*B) + 3")
    numbers = (count("-B + max(11 - B, B*2)"), count(5), count("ceildiv(100, B)"))
    launch = Launch("k", {}, signs, (32, 1, 1), (operand("x"), *numbers, result()))
    (tmp_path / "k.cu").write_text('extern "C" __global__ void k(const void* x, int a, int b, int c, void* y) {}')
    kernel = Kernel("k", Gated, tmp_path / "k.cu", lambda _: None, lambda _: launch, (90,))
    monkeypatch.setitem(KERNELS, Gated, [kernel])
    for batch in (1, 2, 5, 40):
        x = np.zeros((batch, 8), bf16.numpy)
        case = Case(Gated(Input("x", bf16["B", 8])), {"B": batch}, {"x": x})
        got = told(case, having(kind, monkeypatch))[2]
        assert got.grid == tuple(evaluate(e, {"B": batch}) for e in signs)
        assert got.numbers == tuple(evaluate(n.value, {"B": batch}) for n in numbers if isinstance(n.value, int | str))


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


@pytest.mark.parametrize("version", SINCE)
def test_ops_that_are_alike_share_one_plugin(version: str) -> None:
    x, skip, w = Input("x", bf16["B", 1, 64]), Input("skip", bf16["B", 1, 64]), Input("w", bf16[64,])
    first = AddRMSNorm(x, skip, w)
    graph = Graph("g", (x, skip, w), {"y": AddRMSNorm(first, first.results[1], w)}, {"B": (1, 8)})
    trt = standin(version)
    feeds = {"x": np.ones((2, 1, 64)), "skip": np.full((2, 1, 64), 0.5), "w": np.ones(64)}
    feeds = {key: array.astype(bf16.numpy) for key, array in feeds.items()}
    network = network_of(graph, {}, trt=trt, sm=90)
    plugins = [network.network.get_layer(i).own["plugin"].of for i in range(network.network.num_layers)]
    assert len(plugins) == 2 and plugins[0] is plugins[1]
    np.testing.assert_array_equal(network(feeds)["y"], graph.evaluate(feeds)["y"])


CACHE = bf16["B", 2, "M", 64]
FEW = Input("x", bf16[2, 64])
WHY: dict[str, tuple[str, Op, str]] = {
    "version": ("10.8/sm90", FusedLinear(FEW, Input("w", bf16[8, 64])), "TensorRT 10.8 has no plugins compiled ahead of"
                " time, which TensorRT has from 10.9 on"),
    "gpu": ("10.13", FusedLinear(FEW, Input("w", bf16[8, 64])), "its kernel is compiled for one GPU, but the target "
            "names none, as in tensorrt:10.13/sm90"),
    "architecture": ("10.13/sm75", ArgMax(FEW), "argmax is for architectures 80, 86, 89, 90, 100, 120, not 75"),
    "dtype": ("10.13/sm90", FusedLinear(Input("x", bf16[2, 128]), Input("w", i4[8, 128]), Input("s", bf16[8, 1])),
              "i4 tensors are none that plugins take; weight is i4, but must be bf16 as x"),
    "in place": ("10.13/sm90", RopeAndAppend(Input("qkv", bf16["B", 1, 512]), Input("k", CACHE), Input("v", CACHE),
                 Input("start", i32["B",]), heads=4, kv_heads=2), "rope_and_append writes into key_cache, value_cache, "
                 "but a plugin only into results"),
    "workspace": ("10.13/sm90", ArgMax(FEW), "argmax takes workspace, but a plugin gets operands, numbers and results "
                  "alone"),
}   # fmt: skip


@pytest.mark.parametrize("name", WHY)
def test_why_an_op_is_no_plugin(name: str) -> None:
    version, op, want = WHY[name]
    assert target(f"tensorrt:{version}").refuses(op) == want


def test_rtx_takes_none() -> None:
    why = target("tensorrt-rtx:1.7/sm89").refuses(ArgMax(FEW))
    assert why == ("TensorRT-RTX 1.7 has no plugins compiled ahead of time: its plugins are Python code, which must be "
                   "there when a plan is loaded")   # fmt: skip
    with pytest.raises(IRError, match=r"plugins are asked for, but TensorRT-RTX 1\.7 has no plugins compiled"):
        target("tensorrt-rtx:1.7/sm89+plugins")


def test_attention_that_needs_no_workspace_is_taken() -> None:
    cache = Input("k", CACHE)
    op = DecodeAttention(Input("q", bf16["B", 1, 256]), cache, cache, Input("n", i32["B",]), heads=4, kv_heads=2)
    assert [k.name for k in KERNELS[DecodeAttention]] == ["decode_attention", "plain_decode_attention"]
    call = call_of(op, 90)
    assert isinstance(call, Call) and call.kernel.name == "plain_decode_attention"


X = Input("x", f32["B", 8])
FAULTS: dict[str, tuple[Launch, str]] = {
    "shared": (Launch("k", {}, (1, 1, 1), (32, 1, 1), (operand("x"), result()), 65536),
               "scaled takes 65536 bytes of shared memory, but a plugin has 49152"),
    "wide": (Launch("k", {}, (1, 1, 1), (32, 1, 1), (operand("x"), result(), Scalar("i64", 8))),
             "scaled takes a number that is neither i32 nor an f32 that is known now"),
    "float": (Launch("k", {}, (1, 1, 1), (32, 1, 1), (operand("x"), result(), Scalar("f32", "B"))),
              "scaled takes a number that is neither i32 nor an f32 that is known now"),
    "size": (Launch("k", {}, ("ceildiv(multiprocessors, B)", 1, 1), (32, 1, 1), (operand("x"), result())),
             "scaled needs multiprocessors, but no operand has it as an axis"),
    "twice": (Launch("k", {}, (1, 1, 1), (32, 1, 1), (operand("x"), result(), result())),
              "scaled takes the results 0, 0, but must take each once"),
}   # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_launches_that_no_plugin_makes(name: str) -> None:
    launch, want = FAULTS[name]
    kernel = Kernel("scaled", Neg, Path("scale.cu"), lambda _: None, lambda _: launch, (90,))
    assert Call(Neg(X), kernel, launch).unfit() == want
