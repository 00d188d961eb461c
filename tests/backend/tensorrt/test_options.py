"""The options of TensorRT's builder: which version has each, and that each is really set, or the build fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trtc.backend.bundle import bundle
from trtc.backend.tensorrt.api import KNOWN as VERSIONS
from trtc.backend.tensorrt.api import api_of, dotted
from trtc.backend.tensorrt.build import begin, build, emit_network
from trtc.backend.tensorrt.configure import SETTERS, Configuration, configure
from trtc.backend.tensorrt.options import KNOWN, VALUES, Options, check
from trtc.backend.tensorrt.target import tensorrt, tensorrt_rtx
from trtc.errors import TrtcError
from trtc.ir import Graph, at, f32
from trtc.ir.ops import Add, Input, Neg, Weight

EACH: dict[str, Any] = {
    "packed": True, "refit": True, "strip_plan": True, "weight_streaming": True, "version_compatible": True,
    "hardware_compatible": "ampere_plus", "compute_capabilities": ("8.9",), "optimization_level": 2,
    "workspace": 1 << 28, "weight_sparsity": True, "tactic_sources": ("jit_convolutions",),
    "profiling_verbosity": "none", "input_timing_cache": "x", "output_timing_cache": "x",
    "enable_debug_output": True, "monitor_memory": True,
}   # fmt: skip


def refusal(version: str, **options: Any) -> str | None:
    product, _, number = version.partition(":")
    try:
        check(Options(**options), api_of(product, number))
    except TrtcError as error:
        return str(error)
    return None


def test_every_option_has_a_record() -> None:
    assert set(EACH) == set(KNOWN)
    assert set(SETTERS) <= {*KNOWN, "workers"}


@pytest.mark.parametrize("name", EACH)
def test_an_option_is_refused_by_exactly_the_versions_before_it(name: str) -> None:
    for product, versions in VERSIONS.items():
        first = KNOWN[name].since.get(product)
        for version in versions:
            said = refusal(f"{product}:{dotted(version)}", **{name: EACH[name]})
            assert (said is None) == (first is not None and version >= first), (product, version, said)


def test_what_a_version_lacks_is_said_in_one_sentence() -> None:
    assert refusal("tensorrt:11.4", tactic_sources=("cublas",)) == (
        "error: tactic_sources is asked for, but TensorRT 11.4 has no tactics of cublas: "
        "TensorRT 10.16 is the last that has"
    )
    assert refusal("tensorrt:10.16", packed=True) == (
        "error: packed is asked for, but TensorRT 10.16 has no attention over packed tokens: "
        "TensorRT 11.0 is the first that has\n"
        "  = help: without it, batches are ragged, too: they are padded to their longest sequence"
    )
    assert refusal("tensorrt:8.6", weight_streaming=True) == (
        "error: weight_streaming is asked for, but TensorRT 8.6 has no weight streaming: "
        "TensorRT 10.0 is the first that has"
    )
    assert refusal("tensorrt-rtx:1.7", version_compatible=True) == (
        "error: version_compatible is asked for, but TensorRT-RTX has no version-compatible plans\n"
        "  = help: build with the version that will run"
    )
    assert refusal("tensorrt-rtx:1.4", compute_capabilities=("8.9", "12.1")) == (
        "error: compute_capabilities is asked for, but TensorRT-RTX 1.4 has no kernels for compute capability 12.1: "
        "TensorRT-RTX 1.5 is the first that has"
    )
    assert refusal("tensorrt:10.8", hardware_compatible="same_compute_capability") is not None
    assert {name for name, _ in VALUES} <= set(KNOWN)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"profiling_verbosity": "detail"}, "profiling_verbosity is detail, but must be of layer_names_only, detailed"),
        ({"optimization_level": 6}, "optimization_level is 6, but must be of 0, 1, 2, 3, 4, 5"),
        ({"compute_capabilities": ("9.0",)}, "compute_capabilities is 9.0, but must be of current, 7.5, 8.0"),
        ({"workspace": -1}, "workspace is -1, but must not be negative"),
        ({"weightless": True, "refit": True}, "weightless and refit are asked for, but a plan without weights has"),
    ],
)
def test_values_are_checked_when_they_are_given(options: dict[str, Any], said: str) -> None:
    with pytest.raises(TrtcError) as caught:
        Options(**options)
    assert caught.value.message.startswith(said)


def test_given_is_what_differs() -> None:
    assert Options().given == {}
    assert Options(refit=True, input_timing_cache=Path("a")).given == {"refit": True, "input_timing_cache": "a"}


def small() -> Graph:
    x = Input("x", f32["B", 4])
    with at("first"):
        y = Neg(x)
    with at("second"):
        z = Add(y, Weight("w", f32[1, 4]))
    return Graph("g", (x,), {"y": z}, {"B": (1, 4)})


@pytest.fixture
def made() -> Configuration:
    rtx = pytest.importorskip("tensorrt_rtx_bindings")
    builder, emit = begin(rtx, small())
    emit_network(emit, {"w": np.ones((1, 4), np.float32)})
    return Configuration(builder, builder.create_builder_config(), emit)


def test_each_setting_reaches_the_builder(made: Configuration) -> None:
    trt, config, flags = made.trt, made.config, made.trt.BuilderFlag
    given = {k: v for k, v in EACH.items() if k in SETTERS and "timing" not in k}
    given = {k: v for k, v in given.items() if "tensorrt-rtx" in KNOWN[k].since}
    configure(made.builder, config, made.emit, Options(**given, refit=True, strip_plan=True, workers=3))
    wanted = {"WEIGHT_STREAMING", "SPARSE_WEIGHTS", "MONITOR_MEMORY", "REFIT_INDIVIDUAL", "STRIP_PLAN"}
    assert all(config.get_flag(getattr(flags, name)) for name in wanted)
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 1 << 28
    assert config.get_tactic_sources() == 1 << int(trt.TacticSource.JIT_CONVOLUTIONS)
    assert config.get_compute_capability(0) == trt.ComputeCapability.SM89 and config.num_compute_capabilities == 1
    assert (config.builder_optimization_level, made.builder.max_threads) == (2, 3)
    assert config.profiling_verbosity == trt.ProfilingVerbosity.NONE
    network = made.emit.network
    assert network.are_weights_marked_refittable("second.b")
    tensors = {network.get_layer(i).name: network.get_layer(i).get_output(0) for i in range(network.num_layers)}
    assert [name for name, tensor in tensors.items() if network.is_debug_tensor(tensor)] == ["first/neg"]


def test_a_rejected_or_forgotten_setting_fails(made: Configuration) -> None:
    with pytest.raises(TrtcError, match="TensorRT-RTX refuses the network: "):
        SETTERS["optimization_level"](made, 9)
    with pytest.raises(TrtcError, match="TensorRT-RTX refuses the network: workspace is 1, but was set to 2"):
        made.expect("workspace", 1, 2)
    with pytest.raises(TrtcError, match=r"cublas is asked for, but TensorRT-RTX [\d.]+ has no TacticSource of this"):
        SETTERS["tactic_sources"](made, ("cublas",))


FAILS = {
    "refit": "TensorRT-RTX builds plans to refit on a machine with a GPU only",
    "strip_plan": "TensorRT-RTX builds plans to refit on a machine with a GPU only",
    "compute_capabilities": "TensorRT-RTX refuses the network: there is no GPU here",
    "workspace": "TensorRT-RTX finds no kernels for a part of the network",
}
"""Where there is no GPU, and with too little scratch memory."""


@pytest.mark.parametrize("name", FAILS)
def test_builds_that_cannot_be_say_why_and_leave_nothing(name: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    from tensorrt_models import BASE, model

    from trtc.ir import f16

    lowered = model(BASE, f16)
    values: dict[str, Any] = {"compute_capabilities": ("current",), "workspace": 1}
    options = Options(**{name: values.get(name, True)})
    with pytest.raises(TrtcError) as caught, bundle(tmp_path / "e", 0) as writer:
        build(lowered.lowered, lowered.tensors, writer, "rank0", target=tensorrt_rtx(""), options=options)
    assert caught.value.message.startswith(FAILS[name])
    assert list(tmp_path.iterdir()) == []


def test_options_are_checked_before_tensorrt_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(TrtcError, match=r"TensorRT 8\.6 has no debug tensors"), bundle(tmp_path / "e", 0) as writer:
        options = Options(enable_debug_output=True)
        build(small(), {}, writer, "rank0", target=tensorrt("8.6"), options=options)
