"""A stand-in for ``cuda.bindings.driver``: a GPU whose memory is the host's, and whose streams are lazy.

Addresses are real ones. New memory is poisoned, freed memory is forgotten, and copies outside of what is allocated
fail. What a stream is told is done when something waits for it, as late as CUDA may do it, so whoever reads too early
reads the old.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np

POISON = 0x7F   # f32 3.4e38, f16 NaN, i32 2,139,062,143: no number that a model would survive
TICK = 2**-10   # milliseconds that an event takes
Task = Callable[[], None]
Dim = tuple[int, int, int]


class CUresult(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_INVALID_IMAGE = 200
    CUDA_ERROR_NO_BINARY_FOR_GPU = 209
    CUDA_ERROR_NOT_FOUND = 500
    CUDA_ERROR_ILLEGAL_ADDRESS = 700
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900


class CUdevice_attribute(IntEnum):
    CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76


class CUmemorytype(IntEnum):
    CU_MEMORYTYPE_DEVICE = 2


class CUstream_flags(IntEnum):
    CU_STREAM_NON_BLOCKING = 1


class CUevent_flags(IntEnum):
    CU_EVENT_DEFAULT = 0


class CUstreamCaptureMode(IntEnum):
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1


class CUfunction_attribute(IntEnum):
    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8


class CUlaunchAttributeID(IntEnum):
    CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION = 6


class CUlaunchAttribute:
    """Its fields are set by name, as those of the real one."""

    id: Any = None

    def __init__(self) -> None:
        self.value = SimpleNamespace(programmaticStreamSerializationAllowed=0)


class CUlaunchConfig:
    """Its fields are set by name, as those of the real one."""

    gridDimX = gridDimY = gridDimZ = blockDimX = blockDimY = blockDimZ = sharedMemBytes = hStream = numAttrs = 0
    attrs: Any = ()


class CUDA_MEMCPY3D:
    """Its fields are set by name, as those of the real one."""

    srcMemoryType: Any = None
    dstMemoryType: Any = None
    srcDevice = srcPitch = srcHeight = dstDevice = dstPitch = dstHeight = WidthInBytes = Height = Depth = 0


class Failure(Exception):
    """What a task fails with; the call that waits for it gives its code."""

    def __init__(self, code: CUresult) -> None:
        self.code = code


class FakeKernel(Protocol):
    """A kernel."""

    @property
    def parameters(self) -> int:
        """How many it has, of 8 bytes at most."""
        ...

    def run(self, grid: Dim, block: Dim, arguments: int) -> None:
        """What it does, by the address of the addresses of its arguments."""
        ...


Kernels = Mapping[str, FakeKernel]


def no_kernels(image: bytes) -> Kernels:
    return {}


@dataclass
class FakeStream:
    tasks: list[Task] = field(default_factory=list[Task])
    captured: list[Task] | None = None

    def add(self, task: Task) -> None:
        (self.tasks if self.captured is None else self.captured).append(task)

    def run(self, count: int | None = None) -> None:
        """Do the first tasks, or all."""
        todo = self.tasks[:count]
        del self.tasks[:count]
        for task in todo:
            task()


@dataclass
class FakeEvent:
    stream: FakeStream | None = None
    done: bool = True
    at: float = 0.0   # milliseconds

    def complete(self) -> None:
        while not self.done:
            assert self.stream
            self.stream.run(1)


class FakeDriver:
    """The functions of the driver that `trtc.runtime.gpu` calls.

    Args:
        total: bytes of the GPU's memory.
        devices: how many GPUs there are.
        load: gives a cubin's kernels by name.
    """

    CUresult, CUdevice_attribute, CUmemorytype = CUresult, CUdevice_attribute, CUmemorytype
    CUstream_flags, CUevent_flags, CUstreamCaptureMode = CUstream_flags, CUevent_flags, CUstreamCaptureMode
    CUDA_MEMCPY3D, CUfunction_attribute, CUlaunchConfig = CUDA_MEMCPY3D, CUfunction_attribute, CUlaunchConfig
    CUlaunchAttribute, CUlaunchAttributeID = CUlaunchAttribute, CUlaunchAttributeID

    def __init__(self, total: int = 1 << 30, devices: int = 1, load: Callable[[bytes], Kernels] | None = None,
                 capability: tuple[int, int] = (9, 0)) -> None:   # fmt: skip
        self.total, self.devices, self.capability = total, devices, capability
        self.load = load or no_kernels
        self.launches: list[CUlaunchConfig] = []
        self.memory: dict[int, np.ndarray[Any, Any]] = {}    # of the GPU, by address
        self.pinned: dict[int, np.ndarray[Any, Any]] = {}
        self.calls: list[str] = []
        self.streams: dict[int, FakeStream] = {}
        self.copied = 0                                      # bytes, by copies within the GPU
        self.clock = 0.0                                     # milliseconds

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            raise AttributeError(name)
        call = getattr(self, f"_{name}")

        def checked(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append(name)
            try:
                result = call(*arguments)
            except Failure as failure:
                return (failure.code,)
            results: list[Any] = [] if result is None else [*result] if isinstance(result, tuple) else [result]
            return (CUresult.CUDA_SUCCESS, *results)

        return checked

    def stream(self, handle: int) -> FakeStream:
        return self.streams[int(handle)]

    # the device

    def _cuInit(self, flags: int) -> None:
        if not self.devices:
            raise Failure(CUresult.CUDA_ERROR_NO_DEVICE)

    def _cuGetErrorName(self, code: CUresult) -> bytes:
        return code.name.encode()

    def _cuGetErrorString(self, code: CUresult) -> bytes:
        return code.name.removeprefix("CUDA_ERROR_").replace("_", " ").lower().encode()

    def _cuDeviceGetCount(self) -> int:
        return self.devices

    def _cuDeviceGet(self, ordinal: int) -> int:
        return ordinal

    def _cuDeviceGetName(self, length: int, device: int) -> bytes:
        return b"Fake GPU".ljust(length, b"\0")

    def _cuDeviceGetAttribute(self, kind: CUdevice_attribute, device: int) -> int:
        if kind == CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
            return 8
        return self.capability[kind - CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR]

    def _cuDevicePrimaryCtxRetain(self, device: int) -> str:
        return "context"

    def _cuCtxSetCurrent(self, context: str) -> None:
        assert context == "context"

    def _cuDriverGetVersion(self) -> int:
        return 13010

    # memory

    def _cuMemGetInfo(self) -> tuple[int, int]:
        return self.total - sum(a.size for a in self.memory.values()), self.total

    def _cuMemAlloc(self, size: int) -> int:
        if size > self._cuMemGetInfo()[0]:
            raise Failure(CUresult.CUDA_ERROR_OUT_OF_MEMORY)
        return self._new(self.memory, size)

    def _cuMemHostAlloc(self, size: int, flags: int) -> int:
        return self._new(self.pinned, size)

    @staticmethod
    def _new(memory: dict[int, np.ndarray[Any, Any]], size: int) -> int:
        room = np.full(size + 256, POISON, np.uint8)
        array = room[-room.ctypes.data % 256 :][:size]   # aligned, as CUDA's is
        memory[array.ctypes.data] = array
        return array.ctypes.data

    def _cuMemFree(self, address: int) -> None:
        del self.memory[address]

    def _cuMemFreeHost(self, address: int) -> None:
        del self.pinned[address]

    def check(self, address: int, size: int) -> None:
        """Fail where bytes are not all within one allocation."""
        for start, array in [*self.memory.items(), *self.pinned.items()]:
            if start <= address and address + size <= start + array.size:
                return
        raise Failure(CUresult.CUDA_ERROR_ILLEGAL_ADDRESS)

    # streams

    def _cuStreamCreate(self, flags: int) -> int:
        handle = len(self.streams) + 1
        self.streams[handle] = FakeStream()
        return handle

    def _cuStreamDestroy(self, handle: int) -> None:
        self.streams.pop(handle)

    def _cuStreamSynchronize(self, handle: int) -> None:
        stream = self.stream(handle)
        if stream.captured is not None:
            raise Failure(CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)
        stream.run()

    def _cuMemcpyAsync(self, target: int, source: int, size: int, handle: int) -> None:
        self.stream(handle).add(lambda: self._move(target, source, size))

    def _move(self, target: int, source: int, size: int) -> None:
        self.check(target, size)
        self.check(source, size)
        self.copied += size if any(s <= source < s + a.size for s, a in self.memory.items()) else 0
        ctypes.memmove(target, source, size)

    def _cuMemcpy3DAsync(self, c: CUDA_MEMCPY3D, handle: int) -> None:
        assert c.srcMemoryType == c.dstMemoryType == CUmemorytype.CU_MEMORYTYPE_DEVICE
        if c.WidthInBytes > min(c.srcPitch, c.dstPitch) or c.Height > min(c.srcHeight, c.dstHeight):
            raise Failure(CUresult.CUDA_ERROR_INVALID_VALUE)
        moves = [
            (c.dstDevice + (z * c.dstHeight + y) * c.dstPitch, c.srcDevice + (z * c.srcHeight + y) * c.srcPitch)
            for z in range(c.Depth) for y in range(c.Height)
        ]   # fmt: skip
        width = c.WidthInBytes

        def move() -> None:
            held = [ctypes.string_at(source, width) for _, source in moves if not self.check(source, width)]
            for (target, _), data in zip(moves, held, strict=True):
                self.check(target, width)
                ctypes.memmove(target, data, width)
            self.copied += width * len(moves)

        self.stream(handle).add(move)

    def _cuMemsetD8Async(self, target: int, byte: int, size: int, handle: int) -> None:
        def fill() -> None:
            self.check(target, size)
            ctypes.memset(target, byte, size)

        self.stream(handle).add(fill)

    # events

    def _cuEventCreate(self, flags: int) -> FakeEvent:
        return FakeEvent()

    def _cuEventDestroy(self, event: FakeEvent) -> None:
        pass

    def _cuEventRecord(self, event: FakeEvent, handle: int) -> None:
        event.stream, event.done = self.stream(handle), False

        def pass_it() -> None:
            self.clock += TICK
            event.done, event.at = True, self.clock

        event.stream.add(pass_it)

    def _cuEventSynchronize(self, event: FakeEvent) -> None:
        event.complete()

    def _cuStreamWaitEvent(self, handle: int, event: FakeEvent, flags: int) -> None:
        self.stream(handle).add(event.complete)

    def _cuEventElapsedTime(self, start: FakeEvent, end: FakeEvent) -> float:
        return end.at - start.at

    # graphs

    def _cuStreamBeginCapture(self, handle: int, mode: CUstreamCaptureMode) -> None:
        self.stream(handle).captured = []

    def _cuStreamEndCapture(self, handle: int) -> list[Task]:
        stream = self.stream(handle)
        tasks, stream.captured = stream.captured, None
        assert tasks is not None
        return tasks

    def _cuGraphInstantiate(self, graph: list[Task], flags: int) -> list[Task]:
        return list(graph)

    def _cuGraphDestroy(self, graph: list[Task]) -> None:
        pass

    def _cuGraphExecDestroy(self, graph: list[Task]) -> None:
        pass

    def _cuGraphLaunch(self, graph: list[Task], handle: int) -> None:
        for task in graph:
            self.stream(handle).add(task)

    # kernels

    def _cuModuleLoadData(self, image: bytes) -> Kernels:
        if not image.startswith(b"cubin"):
            raise Failure(CUresult.CUDA_ERROR_NO_BINARY_FOR_GPU)
        return self.load(image)

    def _cuModuleUnload(self, module: Kernels) -> None:
        pass

    def _cuModuleGetFunction(self, module: Kernels, name: bytes) -> FakeKernel:
        if name.decode() not in module:
            raise Failure(CUresult.CUDA_ERROR_NOT_FOUND)
        return module[name.decode()]

    def _cuFuncSetAttribute(self, function: FakeKernel, attribute: CUfunction_attribute, value: int) -> None:
        pass

    def _cuLaunchKernelEx(self, c: CUlaunchConfig, function: FakeKernel, arguments: int, extra: int) -> None:
        grid, block = (c.gridDimX, c.gridDimY, c.gridDimZ), (c.blockDimX, c.blockDimY, c.blockDimZ)
        assert len(c.attrs) == c.numAttrs
        if min(*grid, *block) < 1:
            raise Failure(CUresult.CUDA_ERROR_INVALID_VALUE)
        self.launches.append(c)
        given = (ctypes.c_void_p * function.parameters).from_address(arguments)
        values = (ctypes.c_uint64 * function.parameters)(*(ctypes.c_uint64.from_address(a or 0).value for a in given))

        def run() -> None:
            own = (ctypes.c_void_p * len(values))(*(ctypes.addressof(values) + 8 * i for i in range(len(values))))
            function.run(grid, block, ctypes.addressof(own))

        self.stream(c.hStream).add(run)
