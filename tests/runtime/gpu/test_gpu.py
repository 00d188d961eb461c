"""The driver's wrappers, over a stand-in for the driver."""

from __future__ import annotations

import ctypes
import gc
import logging
import sys
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import numpy as np
import pytest
from fake_cuda import POISON, TICK, CUresult, Dim, Failure, FakeDriver

from trtc.errors import MissingPackage, TrtcError
from trtc.runtime.gpu import driver as driver_module
from trtc.runtime.gpu.device import Device, open_device
from trtc.runtime.gpu.driver import GPUError, open_driver
from trtc.runtime.gpu.kernel import Launch, Module, configure
from trtc.runtime.gpu.memory import Arena, HostArray, MemoryPlan
from trtc.runtime.gpu.stream import Box, Event, Stream


def device(fake: FakeDriver | None = None) -> Device:
    return open_device(on=open_driver(fake or FakeDriver()))


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(TrtcError) as caught:
        call()
    return str(caught.value)


NEEDED = "help: run it on a machine with an NVIDIA GPU, or compile with --target onnx for this one"


def test_a_device_says_what_it_is() -> None:
    gpu = device(FakeDriver(total=1000))
    assert str(gpu) == "Fake GPU (compute capability 9.0)"
    assert (gpu.memory, gpu.driver_version) == ((1000, 1000), "13.1")


def test_a_machine_without_a_gpu_is_one_sentence() -> None:
    assert refused(lambda: open_driver(FakeDriver(devices=0))) == (
        f"error: this machine has no NVIDIA GPU, but GPU engines need one\n  = {NEEDED}"
    )


def test_a_machine_without_a_driver_is_one_sentence() -> None:
    class NoLibrary:
        def cuInit(self, flags: int) -> None:
            raise RuntimeError("libcuda.so.1 is not found")

    assert refused(lambda: open_driver(NoLibrary())) == (
        f"error: this machine has no NVIDIA driver, but GPU engines need one\n  = {NEEDED}"
    )


def test_a_driver_that_lacks_a_call_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeDriver()

    def missing(*arguments: Any) -> None:
        raise RuntimeError('Function "cuLaunchKernelEx" not found')

    monkeypatch.setattr(fake, "cuLaunchKernelEx", missing, raising=False)
    assert refused(lambda: open_driver(fake).call("cuLaunchKernelEx", None, None, 0, 0)) == (
        'error: the driver cannot do cuLaunchKernelEx: Function "cuLaunchKernelEx" not found\n'
        "  = help: install a newer driver"
    )


def test_missing_bindings_are_named_with_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    driver_module.driver.cache_clear()
    with pytest.raises(MissingPackage) as caught:
        driver_module.driver()
    assert str(caught.value) == (
        "error: cuda.bindings is needed to run engines on a GPU, but is not installed\n"
        "  = help: pip install 'trtc[cuda]'"
    )


def test_a_gpu_that_is_not_there() -> None:
    gpu = device()
    assert refused(lambda: open_device(2, gpu.driver)) == (
        "error: GPU 2 is asked for, but this machine has 1, counted from 0"
    )


def test_a_gpu_that_has_no_memory_for_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeDriver()
    monkeypatch.setattr(fake, "_cuDevicePrimaryCtxRetain", out_of_memory)
    assert refused(lambda: device(fake)) == (
        "error: Fake GPU has no memory left for another process\n  = help: nvidia-smi tells which processes hold it"
    )


def out_of_memory(_: int) -> Any:
    raise Failure(CUresult.CUDA_ERROR_OUT_OF_MEMORY)


def test_every_code_of_an_error_is_named() -> None:
    fake = FakeDriver()
    stream = Stream(device(fake))
    stream.copy(8, 16, 4)   # of no allocation; CUDA says so when it is done
    with pytest.raises(GPUError) as caught:
        stream.synchronize()
    assert str(caught.value) == (
        "error: the GPU refuses cuStreamSynchronize: illegal address (CUDA_ERROR_ILLEGAL_ADDRESS)"
    )


def test_memory_is_planned_told_and_then_allocated(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trtc.gpu")
    plan = MemoryPlan({"k": 300_000, "v": 300_000, "w": 100}, {"k": "KV cache", "v": "KV cache", "w": "weights"})
    assert plan.offsets == {"k": 0, "v": 300_032, "w": 600_064} and plan.total == 600_320
    arena = Arena(device(), plan)
    assert caplog.messages == [
        "Fake GPU: needs 0.6 MB (KV cache 0.6 MB, weights 0.0 MB); 1,073.7 MB of 1,073.7 MB free"
    ]
    assert arena["v"] - arena["k"] == 300_032


def test_memory_that_is_not_there_is_refused_before_anything_is_allocated() -> None:
    fake = FakeDriver(total=1_000_000)
    gpu = device(fake)
    assert refused(lambda: Arena(gpu, MemoryPlan({"KV cache": 2_000_000}))) == (
        "error: 2.0 MB of GPU memory are needed (KV cache 2.0 MB), but Fake GPU has 1.0 MB free\n"
        "  = help: fewer sequences at a time, or fewer new tokens, need less"
    )
    assert "cuMemAlloc" not in fake.calls


def test_memory_that_lies_in_pieces_or_is_just_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeDriver()
    monkeypatch.setattr(fake, "_cuMemAlloc", out_of_memory)
    assert refused(lambda: Arena(device(fake), MemoryPlan({"x": 256}))).startswith(
        "error: 0.0 MB of GPU memory are needed (x 0.0 MB), "
        "but Fake GPU has no piece as large, though 1,073.7 MB are free\n  = help: "
    )


def test_memory_goes_with_its_owner() -> None:
    fake = FakeDriver()
    arena, host = Arena(device(fake), MemoryPlan({"x": 10})), HostArray(device(fake), (2,), np.int32)
    assert len(fake.memory) == len(fake.pinned) == 1
    del arena, host
    gc.collect()
    assert not fake.memory and not fake.pinned


def on_gpu(gpu: Device, array: np.ndarray[Any, Any]) -> tuple[Arena, Stream, HostArray]:
    """The array in GPU memory, a stream, and room on the host to copy it back to."""
    arena, stream = Arena(gpu, MemoryPlan({"x": array.nbytes})), Stream(gpu)
    host = HostArray(gpu, array.shape, array.dtype)
    host.array[...] = array
    stream.copy(arena["x"], host.address, host.size)
    stream.synchronize()
    return arena, stream, host


def test_copies_are_done_when_they_are_waited_for() -> None:
    gpu = device()
    arena, stream, host = on_gpu(gpu, np.arange(6, dtype=np.float32))
    back, event = HostArray(gpu, (6,), np.float32), Event(gpu)
    stream.copy(back.address, arena["x"], host.size)
    event.record(stream)
    assert back.array.view(np.uint8)[0] == POISON
    event.synchronize()
    assert back.array.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_box_is_copied_between_layouts() -> None:
    """Two new rows of each of 3 slices and 2 heads go to row 1 of caches of 5 rows."""
    gpu, new = device(), np.arange(3 * 2 * 2 * 4, dtype=np.float16).reshape(3, 2, 2, 4)
    cache = np.zeros((3, 2, 5, 4), np.float16)
    rows, _, _ = on_gpu(gpu, new)
    arena, stream, host = on_gpu(gpu, cache)
    row = 4 * 2   # bytes
    stream.copy_box(Box(arena["x"] + row, 5 * row, 2), Box(rows["x"], 2 * row, 2), 2 * row, 2, 3)
    stream.copy(host.address, arena["x"], host.size)
    stream.synchronize()
    cache[:, :, 1:3] = new
    assert (host.array == cache).all()


def test_a_graph_repeats_what_a_stream_was_told() -> None:
    gpu = device()
    arena, stream, host = on_gpu(gpu, np.arange(4, dtype=np.uint8))
    graph = stream.capture(lambda: stream.copy(arena["x"], arena["x"] + 1, 3))
    stream.synchronize()
    for _ in range(2):
        graph.launch(stream)
    stream.copy(host.address, arena["x"], host.size)
    stream.synchronize()
    assert host.array.tolist() == [2, 3, 3, 3]


def test_what_cannot_be_captured_ends_the_capture() -> None:
    stream = Stream(device())
    with pytest.raises(GPUError, match="CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"):
        stream.capture(stream.synchronize)
    stream.synchronize()   # which a stream under capture refuses


def test_a_stream_waits_for_an_event_of_another() -> None:
    gpu = device()
    arena, stream, host = on_gpu(gpu, np.zeros(4, np.uint8))
    other, event = Stream(gpu), Event(gpu)
    stream.fill(arena["x"], 9, 4)
    event.record(stream)
    other.wait(event)
    other.copy(host.address, arena["x"], 4)
    other.synchronize()
    assert host.array.tolist() == [9, 9, 9, 9]
    later = Event(gpu)
    later.record(other)
    later.synchronize()
    assert later.milliseconds_since(event) == TICK


def test_kernels_are_found_by_name_and_launched_in_order() -> None:
    class Double:
        parameters = 2

        def run(self, grid: Dim, block: Dim, arguments: int) -> None:
            places = (ctypes.c_uint64 * 2).from_address(arguments)
            address, count = (ctypes.c_uint64.from_address(place).value for place in places)
            assert (grid, block) == ((4, 1, 1), (32, 1, 1))
            numbers = np.ctypeslib.as_array((ctypes.c_int32 * count).from_address(address))
            numbers *= 2

    fake = FakeDriver(load=lambda image: {"double": Double()})
    gpu = device(fake)
    arena, stream, host = on_gpu(gpu, np.array([3, 4], np.int32))
    module = Module(gpu, b"cubin ...", "kernels.cubin")
    kernel, values = module.kernel("double", shared=100_000), np.array([arena["x"], 2], np.int64)
    pointers = values.ctypes.data + np.array([0, 8])
    config = configure(stream, (4, 1, 1), (32, 1, 1), kernel.shared, overlaps=True)
    Launch(kernel, config, pointers.ctypes.data).enqueue(stream)
    values[:] = 0   # which have been read
    stream.copy(host.address, arena["x"], host.size)
    assert host.array.tolist() == [3, 4]
    stream.synchronize()
    assert host.array.tolist() == [6, 8]
    assert (config.sharedMemBytes, config.numAttrs, "cuFuncSetAttribute" in fake.calls) == (100_000, 1, True)
    assert refused(lambda: module.kernel("triple")) == "error: kernels.cubin has no kernel triple"


def test_machine_code_of_another_gpu_is_refused() -> None:
    assert refused(lambda: Module(device(), b"\x7fELF", "kernels.cubin")) == (
        "error: kernels.cubin cannot be loaded by Fake GPU (compute capability 9.0), whose driver is for CUDA 13.1: "
        "CUDA_ERROR_NO_BINARY_FOR_GPU\n"
        "  = help: compile again for this GPU, or install a newer driver"
    )


def test_the_wrappers_call_what_the_bindings_have() -> None:
    """Each call and each name of the stand-in is one of the real bindings, which load without a driver."""
    real: Any = pytest.importorskip("cuda.bindings.driver")
    calls = [name[1:] for name in vars(FakeDriver) if name.startswith("_cu")]
    assert len(calls) > 30 and [name for name in calls if not hasattr(real, name)] == []
    kinds = [k for k in vars(FakeDriver).values() if isinstance(k, type) and issubclass(k, IntEnum)]
    for kind in kinds:
        for member in kind:
            assert int(getattr(getattr(real, kind.__name__), member.name)) == member
    for kind in (FakeDriver.CUDA_MEMCPY3D, FakeDriver.CUlaunchConfig, FakeDriver.CUlaunchAttribute):
        fields = [k for k in (*vars(kind), *vars(kind())) if not k.startswith("__")]
        assert fields and all(hasattr(getattr(real, kind.__name__), k) for k in fields)
