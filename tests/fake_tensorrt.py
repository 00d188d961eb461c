"""A stand-in for the runtime part of TensorRT's Python module: its engines evaluate a graph in NumPy on a fake GPU.

A plan of it holds a graph's text and its checkpoint's path. As TensorRT does, it refuses shapes outside of the
profile and addresses that are not aligned, gives None or False and a line to the logger where it fails, and reads and
writes memory only when the stream gets there. What an engine computes in is poisoned at each run, so two runs that
were told the same memory but need it at once would be found.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from fake_cuda import CUresult, Failure, FakeDriver

import trtc
from trtc import compiler
from trtc.backend.bundle import BundleWriter, signature
from trtc.frontend import open_checkpoint
from trtc.ir.graph import Graph
from trtc.ir.target import Target
from trtc.ir.text import parse
from trtc.ir.types import evaluate, names
from trtc.runtime.gpu.device import open_device
from trtc.runtime.gpu.driver import open_driver

SCRATCH, USER_MANAGED = 1000, 2


def compile_plan(monkeypatch: pytest.MonkeyPatch, model: Path, out: Path, target: str, **options: Any) -> Path:
    """What ``trtc.compile`` makes, but for the plan, which is one that the stand-in loads."""
    compatible = options.pop("compatible", False)
    compute = options.pop("compute", "9.0")

    def build(
        graph: Graph, tensors: Any, writer: BundleWriter, folder: str, *, target: Target, **_: Any
    ) -> dict[str, Any]:
        plan = {"graph": str(graph), "checkpoint": str(model), "compute": compute, "version": target.version,
                "compatible": compatible}   # fmt: skip
        with writer.open(f"{folder}/model.plan") as file:
            file.write(json.dumps(plan).encode())
        return {"engine": f"{folder}/model.plan", **signature(graph)}

    with monkeypatch.context() as patch:
        fake = SimpleNamespace(build=build, stored_bytes=MagicMock(return_value=0))
        patch.setattr(compiler, "backend", MagicMock(return_value=fake))
        trtc.compile(model, out, target=target, **options)
    if compatible:
        spec = json.loads((out / "engine.json").read_text())
        (out / "engine.json").write_text(json.dumps({**spec, "builder": {"version_compatible": True}}))
    return out


def install(monkeypatch: pytest.MonkeyPatch, driver: FakeDriver, modules: Mapping[str, FakeModule]) -> None:
    """Have these modules, and no other TensorRT, run plans on this GPU."""
    for name in ("tensorrt", "tensorrt_lean", "tensorrt_rtx_bindings", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, modules.get(name))   # type: ignore[arg-type]
    device = MagicMock(return_value=open_device(on=open_driver(driver)))
    monkeypatch.setattr("trtc.runtime.tensorrt.session.open_device", device)


@dataclass
class FakeModule:
    """The module ``tensorrt``, ``tensorrt_lean`` or ``tensorrt_rtx_bindings``.

    Args:
        driver: of the GPU that it runs on.
        old: whether it has the names of 8.6, or else those of later versions.
        lean: whether it loads version-compatible plans only.
        capturable: whether its runs may be part of a graph.
        broken: what fails: "load", "context", "run", "logits" (NaN).
    """

    driver: FakeDriver
    __version__: str = "8.6.0"
    old: bool = True
    lean: bool = False
    capturable: bool = True
    broken: str = ""
    runs: list[dict[str, int]] = field(default_factory=list[dict[str, int]])   # the sizes of each run
    recorder: Any = None

    class ILogger:
        pass

    class IErrorRecorder:
        pass

    def __post_init__(self) -> None:
        if not self.old:
            self.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED=USER_MANAGED)

    @property
    def configured(self) -> bool:
        """Whether contexts are made by a runtime config: from 10.11 on, and with TensorRT-RTX."""
        major, minor = map(int, self.__version__.split(".")[:2])
        return not self.old and (major < 8 or (major, minor) >= (10, 11))

    def __hash__(self) -> int:
        return id(self)

    def Runtime(self, logger: Any) -> FakeRuntime:
        return FakeRuntime(self)

    def complain(self, message: str) -> None:
        self.recorder.report_error(1, message)


@dataclass
class FakeRuntime:
    trt: FakeModule
    engine_host_code_allowed: bool = False

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "error_recorder":   # which complaints of engines and contexts go to, too
            self.trt.recorder = value

    def deserialize_cuda_engine(self, data: Any) -> FakeEngine | None:
        try:
            plan = json.loads(bytes(data))
        except ValueError:
            return self.trt.complain("1: [runtime.cpp::parsePlan::314] Error Code 1: Serialization "
                                     "(Serialization assertion plan->header.magicTag == rt::kPLAN_MAGIC_TAG failed.)")
        if plan["version"] != self.trt.__version__ and not plan["compatible"]:
            return self.trt.complain("1: [stdArchiveReader.cpp::StdArchiveReader::42] Error Code 1: Serialization "
                                     "(Serialization assertion stdVersionRead == serializationVersion failed."
                                     "Version tag does not match. Note: Current Version: 236, Serialized: 239)")
        if plan["compatible"] and not self.trt.lean and not self.engine_host_code_allowed:
            return self.trt.complain("4: Cannot deserialize engine with lean runtime since "
                                     "IRuntime::getEngineHostCodeAllowed() is false.")
        if self.trt.broken == "load":
            return self.trt.complain("2: [safeRuntime.cpp::allocate::31] Error Code 2: OutOfMemory (Requested size was "
                                     "4096 bytes.)")
        have = ".".join(map(str, self.trt.driver.capability))
        if plan["compute"] != have:
            return self.trt.complain(f"6: The engine plan file is generated on an incompatible device, expecting "
                                     f"compute {have} got compute {plan['compute']}, please rebuild.")
        return FakeEngine(self.trt, parse(plan["graph"]), open_checkpoint(plan["checkpoint"]).source)


class FakeEngine:
    """One with a profile for prefill, and one for decode."""

    def __init__(self, trt: FakeModule, graph: Graph, weights: Mapping[str, Any]) -> None:
        self.trt, self.graph, self.weights = trt, graph, weights
        self.inputs = {i.key: i for i in graph.inputs}
        said = signature(graph)["outputs"]
        self.outputs = dict(zip((o["name"] for o in said), graph.outputs, strict=True))   # its name and the graph's
        self.aliased = {o["name"]: o["alias"] for o in said if "alias" in o}
        self.num_optimization_profiles = 2
        if trt.old:
            self.device_memory_size = SCRATCH
            self.create_execution_context_without_device_memory = self._context
        else:
            self.device_memory_size_v2 = SCRATCH
            self.create_execution_context = self._context
        if trt.configured:
            self.create_runtime_config = FakeConfig
        self.made = 0

    @property
    def num_io_tensors(self) -> int:
        return len(self.inputs) + len(self.outputs)

    def get_tensor_name(self, index: int) -> str:
        return [*self.inputs, *self.outputs][index]

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        bounds = self.graph.bounds
        ends = {**bounds, **({"S": (1, 1), "T": bounds["B"]} if profile else {})}
        shape = self.inputs[name].shape
        low, high = (tuple(evaluate(s, {n: pair[i] for n, pair in ends.items()}) for s in shape) for i in range(2))
        return [low, high, high]

    def _context(self, how: Any = None) -> FakeContext | None:
        assert self.trt.old or (how.strategy if self.trt.configured else how) == USER_MANAGED
        if self.trt.broken == "context":
            return self.trt.complain("1: [defaultAllocator.cpp::allocate::20] Error Code 1: Cuda Runtime "
                                     "(out of memory)")
        self.made += 1
        return FakeContext(self, self.made - 1)


class FakeConfig:
    """How contexts are made, from 10.11 on."""

    strategy = 0

    def set_execution_context_allocation_strategy(self, strategy: int) -> None:
        self.strategy = strategy


class FakeContext:
    """Its shapes and addresses stay as they are set, until they are set anew."""

    def __init__(self, engine: FakeEngine, profile: int) -> None:
        self.engine, self.active_optimization_profile = engine, profile
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.device_memory = 0
        if not engine.trt.old:
            self.set_device_memory = self._set_device_memory

    def _set_device_memory(self, address: int, size: int) -> None:
        assert size >= SCRATCH
        self.device_memory = address

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.active_optimization_profile = profile
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self.engine.get_tensor_profile_shape(name, self.active_optimization_profile)
        if len(low) != len(shape) or not all(a <= s <= b for a, s, b in zip(low, shape, high, strict=True)):
            self.engine.trt.complain(f"3: [executionContext.cpp::setInputShape::2068] Error Code 3: API Usage Error "
                                     f"(Parameter check failed, {name} {shape} is not within {low} and {high})")
            return False
        self.shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address % 256 == 0, f"{name} at {address} is not aligned"
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        trt, driver = self.engine.trt, self.engine.trt.driver
        queue = driver.stream(stream)
        if queue.captured is not None and not trt.capturable:
            trt.complain("1: [resources.cpp::alloc::77] Error Code 1: Cuda Runtime (operation not permitted when "
                         "stream is capturing)")
            return False
        if trt.broken == "run" and queue.captured is None:
            trt.complain("2: [executionContext.cpp::enqueueInternal::795] Error Code 2: OutOfMemory "
                         "(Requested 4096 bytes. In enqueueInternal at /_src/executionContext.cpp:795)")
            return False
        shapes, addresses, scratch = dict(self.shapes), dict(self.addresses), self.device_memory
        profile = self.active_optimization_profile
        queue.add(lambda: self._run(driver, shapes, addresses, scratch, profile))
        return True

    def _run(
        self, driver: FakeDriver, shapes: dict[str, Any], addresses: dict[str, int], scratch: int, profile: int
    ) -> None:
        engine = self.engine
        driver.check(scratch, SCRATCH)
        ctypes.memset(scratch, 0x7F, SCRATCH)
        given = {
            key: view(driver, addresses[key], shapes.get(key, op.shape), op.dtype.numpy).copy()
            for key, op in engine.inputs.items()
        }
        for name, cache in engine.aliased.items():
            assert addresses[name] == addresses[cache], f"{name} is not where {cache} is"
        engine.trt.runs.append({"B": len(given["past_lengths"]), "S": given["input_ids"].shape[-1],
                                "T": given["input_ids"].size, "profile": profile,
                                "M": max((a.shape[2] for k, a in given.items() if k.endswith("_cache")), default=0)})
        results = engine.graph.evaluate({**engine.weights, **given})
        for name, key in engine.outputs.items():
            array = results[key]
            if engine.trt.broken == "logits" and name in ("logits", "top_logits"):
                array = np.full_like(array, np.nan)
            view(driver, addresses[name], array.shape, array.dtype)[...] = array


def view(driver: FakeDriver, address: int, shape: tuple[Any, ...], dtype: Any) -> Any:
    """The array that lies at an address of the GPU."""
    assert not names(shape)
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    driver.check(address, size)
    if not any(start <= address < start + a.size for start, a in driver.memory.items()):
        raise Failure(CUresult.CUDA_ERROR_ILLEGAL_ADDRESS)   # of the host
    return np.frombuffer(memoryview((ctypes.c_byte * size).from_address(address)), dtype).reshape(shape)
