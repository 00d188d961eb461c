"""Kernels on the GPU of this machine: memory by torch, launches by the CUDA driver."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
import torch

from trtc.backend.kernels import Kernel, Launch, Pointer, find
from trtc.expressions import evaluate
from trtc.ir.op import Array, Op
from trtc.ir.ops import Input
from trtc.ir.types import evaluate as size_of

driver: Any = import_module("cuda.bindings.driver")
Buffers: TypeAlias = Mapping[str, torch.Tensor]   # bytes, by the operands' names
POISON = 0xFF   # every float of these bytes is NaN
CTYPES: dict[str, Any] = {"i32": ctypes.c_int, "i64": ctypes.c_longlong, "f32": ctypes.c_float}


def poisoned(count: int) -> torch.Tensor:
    return torch.full((count,), POISON, dtype=torch.uint8, device="cuda")


def check(answer: tuple[Any, ...], what: str) -> Any:
    """What a call of the driver gives beside its error."""
    if int(answer[0]):
        raise RuntimeError(f"{what}: {answer[0]}")
    return answer[1] if len(answer) == 2 else answer[1:]


def architecture() -> int:
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


def upload(array: Array) -> torch.Tensor:
    """The bytes of an array, on the device; two i4 a byte, the first in the low half."""
    if array.dtype.name == "int4":
        pairs = array.astype(np.uint8).reshape(-1, 2) & 15
        array = pairs[:, 0] | pairs[:, 1] << 4
    return torch.from_numpy(   # pyright: ignore[reportUnknownMemberType]
        np.ascontiguousarray(array).reshape(-1).view(np.uint8).copy()
    ).cuda()


@dataclass
class Loaded:
    """A kernel for one op with its sizes, ready to be launched on any buffers."""

    launch: Launch
    sizes: Mapping[str, int]
    function: Any
    grid: tuple[int, ...]
    workspace: torch.Tensor
    counters: torch.Tensor

    def __call__(self, operands: Buffers, results: list[torch.Tensor], overlap: bool = False) -> None:
        """Launch it on torch's current stream; ``overlap`` lets it start before what comes before it is done."""
        values: list[Any] = []
        kinds: list[Any] = []
        for argument in self.launch.arguments:
            if isinstance(argument, Pointer):
                tensor = {
                    "operand": lambda a=argument: operands[a.name],
                    "result": lambda a=argument: results[int(a.name)],
                    "workspace": lambda: self.workspace,
                    "counters": lambda: self.counters,
                }[argument.kind]()
                values.append(tensor.data_ptr())
                kinds.append(ctypes.c_void_p)
            else:
                number = argument.value
                values.append(number if isinstance(number, float) else evaluate(number, self.sizes))
                kinds.append(CTYPES[argument.dtype])
        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = self.grid
        config.blockDimX, config.blockDimY, config.blockDimZ = self.launch.block
        config.sharedMemBytes = self.launch.shared_bytes
        config.hStream = torch.cuda.current_stream().cuda_stream
        if overlap and self.launch.overlaps:
            attribute = driver.CUlaunchAttribute()
            attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
            attribute.value.programmaticStreamSerializationAllowed = 1
            config.attrs, config.numAttrs = [attribute], 1
        check(driver.cuLaunchKernelEx(config, self.function, (tuple(values), tuple(kinds)), 0), self.launch.entry)


def prepare(kernel: Kernel, op: Op, sizes: Mapping[str, int]) -> Loaded:
    """The kernel compiled and loaded, with its workspace poisoned and its counters zero."""
    torch.cuda.current_stream()
    attribute = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
    known = {**sizes, "multiprocessors": int(check(driver.cuDeviceGetAttribute(attribute, 0), "cuDeviceGetAttribute"))}
    launch = kernel.launch(op)
    module = check(driver.cuModuleLoadData(kernel.compile(op, architecture()).cubin), "cuModuleLoadData")
    function = check(driver.cuModuleGetFunction(module, launch.entry.encode()), "cuModuleGetFunction")
    if launch.shared_bytes > 48 * 1024:
        limit = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        check(driver.cuFuncSetAttribute(function, limit, launch.shared_bytes), "cuFuncSetAttribute")
    workspace = poisoned(max(16, evaluate(launch.workspace_bytes, known)))
    counters = torch.zeros(max(16, evaluate(launch.counter_bytes, known)), dtype=torch.uint8, device="cuda")
    grid = tuple(evaluate(n, known) for n in launch.grid)
    return Loaded(launch, known, function, grid, workspace, counters)


def ready(op: Op) -> Loaded:
    """The kernel that there is for an op whose sizes are numbers."""
    kernel = find(op, architecture())
    assert not isinstance(kernel, str), kernel
    return prepare(kernel, op, {})


def as_plugin(loaded: Loaded, ptx: str, order: tuple[int, ...]) -> Loaded:
    """The kernel as TensorRT launches a plugin: from PTX that takes arguments in another order, without its floats."""
    module = check(driver.cuModuleLoadData(ptx.encode() + b"\0"), "cuModuleLoadData")
    function = check(driver.cuModuleGetFunction(module, loaded.launch.entry.encode()), "cuModuleGetFunction")
    launch = replace(loaded.launch, arguments=tuple(loaded.launch.arguments[i] for i in order))
    return replace(loaded, launch=launch, function=function)


def outputs(op: Op, loaded: Loaded, operands: Buffers) -> list[torch.Tensor]:
    """Poisoned results; one that is written in place is a copy of its operand."""
    made: list[torch.Tensor] = []
    for i, of in enumerate(op.types):
        shape = [size_of(s, loaded.sizes) for s in of.shape]
        count = int(np.prod(shape)) * of.dtype.bits // 8
        made.append(poisoned(count))
        if i in loaded.launch.in_place:
            made[i] = operands[loaded.launch.in_place[i]].clone()
    return made


def run(op: Op, loaded: Loaded, tensors: Mapping[str, Array]) -> list[Array]:
    """The results of one launch on these tensors."""
    operands = {name: upload(tensors[value.key]) for name, value in op.operands.items() if isinstance(value, Input)}
    results = outputs(op, loaded, operands)
    bound = operands | {name: results[i] for i, name in loaded.launch.in_place.items()}
    loaded(bound, results)
    torch.cuda.synchronize()
    if loaded.counters.any():
        raise RuntimeError(f"{loaded.launch.entry} leaves counters that are not zero")
    found: list[Array] = []
    for of, result in zip(op.types, results, strict=True):
        shape = [size_of(s, loaded.sizes) for s in of.shape]
        found.append(result.cpu().numpy().view(of.dtype.numpy).reshape(shape))
    return found


def graph_time(work: Callable[[int], object], steps: int, repeats: int = 7) -> float:
    """The median seconds of one of ``steps`` calls of ``work(i)``, replayed as one CUDA graph."""
    torch.cuda.synchronize()   # what other streams prepare
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for i in range(min(steps, 3)):
            work(i)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for i in range(steps):
                work(i)
        times: list[float] = []
        for i in range(repeats + 2):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            graph.replay()
            end.record()
            torch.cuda.synchronize()
            if i >= 2:
                times.append(begin.elapsed_time(end) / 1e3 / steps)
    return float(np.median(times))


def copy_bandwidth() -> float:
    """Bytes a second of a large copy on the device, those read and those written together."""
    count = 1 << 29
    source = torch.randn(count, device="cuda")
    target = torch.empty_like(source)
    return 8 * count / graph_time(lambda _: torch.neg(source, out=target), 4)   # a kernel copies faster than the driver


def product_rate() -> float:
    """Operations a second of a large product in bf16."""
    size = 8192
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * size**3 / graph_time(lambda _: torch.matmul(a, b, out=out), 4)
