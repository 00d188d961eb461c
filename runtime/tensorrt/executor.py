"""Running a plan: its profiles, execution contexts that share one piece of memory, shapes and addresses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trtc.errors import TrtcError
from trtc.runtime.gpu.buffers import Sizes, Tensors
from trtc.runtime.gpu.device import Device
from trtc.runtime.gpu.stream import Stream
from trtc.runtime.tensorrt.plan import Plan
from trtc.runtime.tensorrt.runtime_cache import RuntimeCache

KEPT = 16   # contexts of decode steps, each with its graph


@dataclass
class Context:
    """An execution context of one profile, and the run that it is bound for."""

    handle: Any
    run: PlanRun | None = None


class PlanExecutor:
    """Runs a plan.

    Args:
        tensors: what engine.json says of it.
        cache: of TensorRT-RTX, what it compiled for this GPU.
    Errors:
        TrtcError: the plan has other tensors.
    """

    def __init__(self, plan: Plan, device: Device, stream: Stream, tensors: Tensors, cache: RuntimeCache) -> None:
        self.plan, self.device, self.tensors = plan, device, tensors
        self._stream, self._cache = stream, cache
        self._contexts: dict[int, Context] = {}
        engine = plan.engine
        names = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
        if missing := sorted({*tensors.inputs, *tensors.outputs} - names):
            raise TrtcError(f"{plan.file} has no tensor {missing[0]}, but engine.json lists it", "help: compile again")
        self.ranges = [self._ranges(index) for index in range(engine.num_optimization_profiles)]

    def _ranges(self, profile: int) -> dict[str, tuple[int, int]]:
        """The least and the greatest value of each symbolic size in a profile."""
        found: dict[str, tuple[int, int]] = {}
        for tensor in self.tensors.inputs.values():
            if any(isinstance(size, str) for size in tensor.shape):
                least, _, most = self.plan.engine.get_tensor_profile_shape(tensor.name, profile)
                pairs = zip(tensor.shape, zip(least, most, strict=True), strict=True)
                found |= {size: pair for size, pair in pairs if isinstance(size, str)}
        return found

    @property
    def scratch_bytes(self) -> int:
        engine = self.plan.engine
        newer = getattr(engine, "device_memory_size_v2", None)   # from 10.1, and alone from 11.0
        return int(engine.device_memory_size if newer is None else newer)

    def fits(self, sizes: Sizes) -> bool:
        return self._profile(sizes) is not None

    def _profile(self, sizes: Sizes) -> int | None:
        """The profile that takes these sizes; of several the one of the fewest new tokens."""
        fitting = [
            (ranges.get("T", ranges.get("S", (1, 1)))[1], index)
            for index, ranges in enumerate(self.ranges)
            if all(low <= sizes.symbols[name] <= high for name, (low, high) in ranges.items())
        ]
        return min(fitting)[1] if fitting else None

    def run(self, sizes: Sizes, addresses: Mapping[str, int], scratch: int) -> PlanRun:
        profile = self._profile(sizes)
        if profile is None:
            said = ", ".join(f"{name} {size}" for name, size in sizes.symbols.items() if size and len(name) == 1)
            raise TrtcError(f"{self.plan.file} has no profile for {said}", "help: compile with greater limits")
        if sizes.tokens == 1 and self.kept > 1:   # in a context of its own, as a graph of it stays valid only there
            return PlanRun(self, self._create(profile), sizes, addresses, scratch)
        if profile not in self._contexts:
            self._contexts[profile] = self._create(profile)
        return PlanRun(self, self._contexts[profile], sizes, addresses, scratch)

    @property
    def kept(self) -> int:
        """How many decode steps of different sizes may be bound at a time: in 8.6 a profile has one context."""
        return KEPT if hasattr(self.plan.trt, "ExecutionContextAllocationStrategy") else 1

    def _create(self, profile: int) -> Context:
        """A context without memory of its own, of one profile."""
        trt, engine = self.plan.trt, self.plan.engine
        self.plan.said.take()
        if hasattr(engine, "create_runtime_config"):   # TensorRT-RTX; TensorRT from 10.11
            config = engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
            self._cache.attach(config)
            handle = engine.create_execution_context(config)
        elif hasattr(trt, "ExecutionContextAllocationStrategy"):
            handle = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        else:   # 8.6
            handle = engine.create_execution_context_without_device_memory()
        if handle is None:
            raise self.plan.refusal(self.device, "an execution context")
        if handle.active_optimization_profile != profile:
            self.check(handle.set_optimization_profile_async(profile, self._stream.number), "the choice of a profile")
            self._stream.synchronize()
        return Context(handle)

    def watch(self, profiler: Any) -> dict[int, Sizes]:
        """Have each context report the times of its layers to an ``IProfiler``.

        Result:
            By profile, the sizes that its context is bound for.
        """
        for context in self._contexts.values():
            context.handle.profiler = profiler
        return {index: context.run.sizes for index, context in self._contexts.items() if context.run}

    def check(self, done: bool, what: str) -> None:
        """Raise where TensorRT says that it did not do something."""
        if not done:
            raise self.plan.refusal(self.device, what)


@dataclass
class PlanRun:
    """A context with sizes and addresses; bound when it runs, as runs of one profile share a context."""

    executor: PlanExecutor
    context: Context
    sizes: Sizes
    addresses: Mapping[str, int]
    scratch: int

    def enqueue(self, stream: Stream) -> None:
        if self.context.run is not self:
            self._bind()
        done = self.context.handle.execute_async_v3(stream.number)
        self.executor.check(done, "a run of the engine")

    def capturable(self, stream: Stream) -> bool:
        if self.context.run is not self:
            self._bind()
        asked = getattr(self.context.handle, "is_stream_capturable", None)
        return bool(asked(stream.number)) if asked else True

    def _bind(self) -> None:
        executor, handle = self.executor, self.context.handle
        if hasattr(handle, "set_device_memory"):
            handle.set_device_memory(self.scratch, executor.scratch_bytes)
        else:   # before 10.1
            handle.device_memory = self.scratch
        for tensor in executor.tensors.inputs.values():
            if any(isinstance(size, str) for size in tensor.shape):
                shape = self.sizes.shape(tensor)
                executor.check(handle.set_input_shape(tensor.name, shape), f"the shape {shape} of {tensor.name}")
        for name, address in self.addresses.items():
            executor.check(handle.set_tensor_address(name, address), f"the address of {name}")
        self.context.run = self
