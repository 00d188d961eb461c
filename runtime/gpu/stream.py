"""Streams: what a GPU does in order, while the host goes on; events, and graphs of what a stream was told."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trtc.runtime.gpu.device import Device
from trtc.runtime.gpu.memory import release


@dataclass(frozen=True)
class Box:
    """Rows of equal length that lie apart, in slices that lie apart: what one strided copy moves.

    Args:
        address: of the first row.
        pitch: bytes from row to row.
        rows: from slice to slice, in pitches; of no account where there is one slice.
    """

    address: int
    pitch: int
    rows: int = 1


class Stream:
    """A stream of one GPU."""

    def __init__(self, device: Device) -> None:
        self.device, self._call = device, device.driver.call
        self.handle = self._call("cuStreamCreate", int(device.driver.api.CUstream_flags.CU_STREAM_NON_BLOCKING))
        self.free = weakref.finalize(self, release, device, "cuStreamDestroy", self.handle)

    @property
    def number(self) -> int:
        """The handle as other libraries take it."""
        return int(self.handle)

    def copy(self, target: int, source: int, size: int) -> None:
        """Copy bytes between addresses, each of the GPU or of a `HostArray`."""
        if size:
            self._call("cuMemcpyAsync", target, source, size, self.handle)

    def copy_box(self, target: Box, source: Box, width: int, height: int, depth: int = 1) -> None:
        """Copy ``depth`` slices of ``height`` rows of ``width`` bytes, between addresses of the GPU."""
        api = self.device.driver.api
        copy = api.CUDA_MEMCPY3D()
        copy.srcMemoryType = copy.dstMemoryType = api.CUmemorytype.CU_MEMORYTYPE_DEVICE
        copy.srcDevice, copy.srcPitch, copy.srcHeight = source.address, source.pitch, max(source.rows, height)
        copy.dstDevice, copy.dstPitch, copy.dstHeight = target.address, target.pitch, max(target.rows, height)
        copy.WidthInBytes, copy.Height, copy.Depth = width, height, depth
        self._call("cuMemcpy3DAsync", copy, self.handle)

    def fill(self, target: int, byte: int, size: int) -> None:
        """Set bytes."""
        self._call("cuMemsetD8Async", target, byte, size, self.handle)

    def wait(self, event: Event) -> None:
        """What follows waits for an event."""
        self._call("cuStreamWaitEvent", self.handle, event.handle, 0)

    def synchronize(self) -> None:
        """Wait until all is done.

        Errors:
            GPUError: something that was done has failed.
        """
        self._call("cuStreamSynchronize", self.handle)

    def capture(self, told: Callable[[], object]) -> Graph:
        """The graph of what this stream is told meanwhile, none of which is done.

        Errors:
            GPUError: something in it cannot be part of a graph.
        """
        mode = self.device.driver.api.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", self.handle, mode)
        try:
            told()
        except BaseException:
            self.device.driver.api.cuStreamEndCapture(self.handle)   # whose error would hide the one under way
            raise
        return Graph(self.device, self._call("cuStreamEndCapture", self.handle))


class Graph:
    """A recorded piece of work, which costs the host one call.

    Args:
        graph: as a stream gives it.
    """

    def __init__(self, device: Device, graph: Any) -> None:
        self._call = device.driver.call
        try:
            self._run = self._call("cuGraphInstantiate", graph, 0)
        finally:
            self._call("cuGraphDestroy", graph)
        self.free = weakref.finalize(self, release, device, "cuGraphExecDestroy", self._run)

    def launch(self, stream: Stream) -> None:
        """Do it, after what the stream has been told before."""
        self._call("cuGraphLaunch", self._run, stream.handle)


class Event:
    """A point in a stream's work."""

    def __init__(self, device: Device) -> None:
        self._call = device.driver.call
        self.handle = self._call("cuEventCreate", int(device.driver.api.CUevent_flags.CU_EVENT_DEFAULT))
        self.free = weakref.finalize(self, release, device, "cuEventDestroy", self.handle)

    def record(self, stream: Stream) -> None:
        """Stand where the stream's work ends now."""
        self._call("cuEventRecord", self.handle, stream.handle)

    def synchronize(self) -> None:
        """Wait until the work before it is done."""
        self._call("cuEventSynchronize", self.handle)

    def milliseconds_since(self, earlier: Event) -> float:
        """The time between two events, both done."""
        return float(self._call("cuEventElapsedTime", earlier.handle, self.handle))
