"""Whole plans with the CUDA C++ of their kernels: as a GPU would run them, thread by thread on a CPU."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import emulator
import numpy as np
import pytest
from cuda_families import logits, meant, planned
from models import KNOWN

from trtc.backend.cuda.plan import Plan
from trtc.backend.cuda.simulate import MULTIPROCESSORS
from trtc.backend.cuda.weights import packed
from trtc.backend.kernels import Kernel, Launch
from trtc.expressions import evaluate
from trtc.ir import Array, types
from trtc.ir.materialize import materialize
from trtc.ir.types import DTYPES

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler, g++")
CTYPES: dict[str, Any] = {"i32": ctypes.c_int, "i64": ctypes.c_longlong, "f32": ctypes.c_float}
POISON = 0xFF
FEW = (("llama3-head64-old", "bfloat16"), ("gqa-tied-head16", "float16"))
MORE = (("mixtral", "bfloat16"), ("deepseek-v2-lite", "float32"), ("gemma2", "float16"), ("gpt2", "float32"))
CASES = (*FEW, *MORE) if os.environ.get("TRTC_FUZZ") else FEW


class Emulated:
    """A plan's JSON, and its kernels compiled for this machine."""

    def __init__(self, plan: Plan, tensors: Mapping[str, Array], folder: Path) -> None:
        self.plan = plan

        def build(numbered: tuple[int, tuple[Kernel, Launch]]) -> Any:
            number, (kernel, launch) = numbered
            (folder / str(number)).mkdir()
            return emulator.build(kernel.source, launch.defines, launch.entry, folder / str(number)).emulate

        with ThreadPoolExecutor() as pool:
            self.functions = list(pool.map(build, enumerate(plan.kernels.values())))
        self.document = json.loads(json.dumps(plan.document(dict.fromkeys(plan.kernels, ""), "")))
        self.memory = {"weight": memory(self.document["weights"]["bytes"])}
        self.tensors: dict[str, Any] = self.document["weights"]["tensors"]
        for stored in plan.weights.stored:
            content = packed(materialize(stored.value, tensors), stored.value.type)
            self.memory["weight"][self.tensors[stored.name]["offset"] :][: content.size] = content
        self.counters = memory(self.document["counter_bytes"] + 16, 0)

    def run(self, inputs: Mapping[str, Array], sizes: Mapping[str, int]) -> dict[str, Array]:
        """The outputs by name, and the inputs that are updated by theirs."""
        self.sizes = {**sizes, "multiprocessors": MULTIPROCESSORS}
        number = next(
            n for n, p in enumerate(self.document["phases"])
            if all(low <= sizes[k] <= high for k, (low, high) in p["bounds"].items())
        )   # fmt: skip
        phase, graph = self.document["phases"][number], self.plan.phases[number].phase.graph
        typed = {i.key: i.type for i in graph.inputs} | {k: v.type for k, v in graph.outputs.items()}
        shapes = {k: tuple(types.evaluate(s, self.sizes) for s in t.shape) for k, t in typed.items()}
        self.io = {k: memory(int(np.prod(shapes[k])) * t.dtype.numpy.itemsize) for k, t in typed.items()}
        for key, array in inputs.items():
            self.io[key][:] = packed(array, typed[key])
        self.memory["scratch"] = memory(phase["scratch_bytes"])
        for step in phase["steps"]:
            {"launch": self.launch, "matmul": self.matmul, "copy": self.copy}[step["kind"]](step)
            assert not self.counters.any(), f"{step['op']} must leave the counters zero"
        return {k: self.io[k].view(typed[k].dtype.numpy).reshape(shapes[k]).copy() for k in graph.outputs}

    def at(self, place: Mapping[str, Any]) -> Array:
        """The memory from a place on."""
        if place["at"] == "counters":
            return self.counters
        first = place["offset"] + (self.tensors[place["name"]]["offset"] if place["at"] == "weight" else 0)
        return (self.io[place["name"]] if place["at"] == "io" else self.memory[place["at"]])[first:]

    def launch(self, step: Mapping[str, Any]) -> None:
        values: list[Any] = []
        for argument in step["arguments"]:
            if "at" in argument:
                values.append(ctypes.c_void_p(self.at(argument).ctypes.data))
            else:
                ((kind, number),) = argument.items()
                values.append(CTYPES[kind](number if kind == "f32" else evaluate(number, self.sizes)))
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        grid = (ctypes.c_uint * 3)(*(evaluate(n, self.sizes) for n in step["grid"]))
        self.functions[step["kernel"]](grid, ctypes.c_uint(step["block"][0]), pointers, ctypes.c_bool(False))

    def matmul(self, step: Mapping[str, Any]) -> None:
        m, n, k = (evaluate(step[name], self.sizes) for name in ("m", "n", "k"))
        dtype = DTYPES[step["dtype"]].numpy

        def read(name: str, *shape: int) -> Array:
            size = int(np.prod(shape)) * dtype.itemsize
            return self.at(step[name])[:size].view(dtype).reshape(shape).astype(np.float32)

        y = read("x", m, k) @ read("weight", n, k).T
        y += read("bias", n) if step["bias"] else 0
        y += read("residual", m, n) if step["residual"] else 0
        self.at(step["workspace"])[: step["workspace_bytes"]] = POISON
        self.at(step["y"])[: m * n * dtype.itemsize] = y.astype(dtype).reshape(-1).view(np.uint8)

    def copy(self, step: Mapping[str, Any]) -> None:
        count = evaluate(step["bytes"], self.sizes)
        self.at(step["to"])[:count] = self.at(step["from"])[:count]


def memory(count: int, fill: int = POISON) -> Array:
    """Bytes that begin where a device's allocation would."""
    whole = np.full(count + 256, fill, np.uint8)
    return whole[-whole.ctypes.data % 256 :][:count]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_kernels_compute_what_the_graph_means(name: str, dtype: str, tmp_path: Path) -> None:
    model, graph, plan = planned(name, dtype)
    emulated = Emulated(plan, model.checkpoint.source, tmp_path)
    tolerance = {"float32": 2e-5, "float16": 2.0**-6, "bfloat16": 2.0**-3}[dtype]
    got = logits(graph, emulated.run, KNOWN[name])
    np.testing.assert_allclose(got, meant(name, dtype), rtol=0, atol=tolerance)
