"""The stand-in that the runtime's tests run plans with has no names but those of TensorRT's bindings."""

from __future__ import annotations

import re

import pytest
from fake_cuda import FakeDriver
from fake_tensorrt import FakeConfig, FakeContext, FakeEngine, FakeModule, FakeRuntime
from tensorrt_api import table

from trtc.ir import Graph, f32
from trtc.ir.ops import Input, Neg

OWN = {"trt", "graph", "weights", "inputs", "outputs", "aliased", "made", "engine", "shapes", "addresses", "strategy"}
"""What they keep for themselves."""
VERSIONS = ("8.6", "10.1", "10.10", "10.11", "10.16", "11.0", "11.4", "rtx 1.4", "rtx 1.7")


def names(of: object) -> set[str]:
    return {name for name in dir(of) if not name.startswith("_")} - OWN


@pytest.mark.parametrize("version", VERSIONS)
def test_names_are_those_of_the_bindings(version: str) -> None:
    module = FakeModule(FakeDriver(), version.removeprefix("rtx "), old=version == "8.6")
    x = Input("x", f32["B", 4])
    engine = FakeEngine(module, Graph("g", (x,), {"y": Neg(x)}, {"B": (1, 2)}), {})
    made = {
        "Runtime": FakeRuntime(module), "ICudaEngine": engine, "IExecutionContext": FakeContext(engine, 0),
        **({"IRuntimeConfig": FakeConfig()} if module.configured else {}),
    }   # fmt: skip
    for kind, of in made.items():
        known = {re.split(r"\W", line)[0] for line in table(version)[kind]}
        assert names(of) <= known, f"{kind} of {version} has no {names(of) - known}"
