"""Every option that a version has is set by names and arguments that its bindings have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorrt_api import VERSIONS
from tensorrt_families import target_of
from tensorrt_standin import standin

from trtc.backend.bundle import bundle
from trtc.backend.tensorrt import build as building
from trtc.backend.tensorrt.api import Api, api_of
from trtc.backend.tensorrt.configure import Configuration
from trtc.backend.tensorrt.options import CHOICES, KNOWN, Options, check
from trtc.errors import TrtcError
from trtc.ir import Graph, at, f32
from trtc.ir.ops import Add, Input, Neg, Weight
from trtc.ir.target import target

EACH: dict[str, Any] = {
    "refit": True, "strip_plan": True, "weight_streaming": True, "version_compatible": True,
    "hardware_compatible": "ampere_plus", "compute_capabilities": ("8.9",), "optimization_level": 2,
    "workspace": 1 << 28, "weight_sparsity": True, "profiling_verbosity": "detailed", "enable_debug_output": True,
    "monitor_memory": True, "tactic_sources": ("jit_convolutions",),
}   # fmt: skip
ENUMS = {
    "tactic_sources": "TacticSource", "profiling_verbosity": "ProfilingVerbosity",
    "compute_capabilities": "ComputeCapability", "hardware_compatible": "HardwareCompatibilityLevel",
}   # fmt: skip
APART = {"packed", "output_timing_cache", "input_timing_cache"}   # of the graph; files


def test_all_options_are_tried() -> None:
    assert {*EACH, *APART} == set(KNOWN)


def has(api: Api, option: dict[str, Any]) -> bool:
    try:
        check(Options(**option), api)
    except TrtcError:
        return False
    return True


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("option", "enum"), ENUMS.items(), ids=ENUMS)
def test_values_are_members_that_the_version_has(version: str, option: str, enum: str) -> None:
    named = target(target_of(version))
    api, members = api_of(named.name, named.version), getattr(standin(version), enum, ())
    for value in CHOICES[option] if named.name in KNOWN[option].since else ():
        of: Any = (value,) if isinstance(EACH[option], tuple) else value
        spelt = f"SM{value.replace('.', '')}" if value[:1].isdigit() else value.upper()
        assert has(api, {option: of}) == (not value or hasattr(members, spelt)), value


@pytest.mark.parametrize("version", VERSIONS)
def test_options_use_what_the_version_has(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = target(target_of(version))
    api = api_of(named.name, named.version)
    tried: dict[str, Any] = {**EACH, "output_timing_cache": str(tmp_path / "model.cache")}
    given = {name: value for name, value in tried.items() if has(api, {name: value})}
    assert len(given) >= 7

    def module(product: str) -> Any:
        return standin(version)

    def unread(made: Configuration, name: str, got: Any, want: Any) -> None:
        """The stand-in keeps no settings that are methods."""

    monkeypatch.setattr(building, "module", module)
    monkeypatch.setattr(Configuration, "expect", unread)
    x = Input("x", f32["B", 4])
    with at("first"):
        y = Neg(x)
    with at("second"):
        y = Add(y, Weight("w", f32[1, 4]))
    graph = Graph("g", (x,), {"y": y}, {"B": (1, 4)})
    with bundle(tmp_path / "engine", 0) as writer:
        tensors = {"w": np.ones((1, 4), np.float32)}
        building.build(graph, tensors, writer, "rank0", target=named, options=Options(**given))
        assert "rank0/model.plan" in writer.files
