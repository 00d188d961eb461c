"""Sessions of target cuda."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trtc.expressions import evaluate
from trtc.runtime.bundle import EngineBundle
from trtc.runtime.cuda.choices import Choices
from trtc.runtime.cuda.cublaslt import CublasLt
from trtc.runtime.cuda.executor import PlanExecutor
from trtc.runtime.cuda.plan import Plan, read_plan
from trtc.runtime.cuda.products import Products
from trtc.runtime.cuda.program import Machine
from trtc.runtime.cuda.weights import PlanWeights
from trtc.runtime.gpu.buffers import Tensors
from trtc.runtime.gpu.caches import STEP
from trtc.runtime.gpu.device import Device, open_device
from trtc.runtime.gpu.kernel import Kernel, Module
from trtc.runtime.gpu.memory import MemoryPlan, require
from trtc.runtime.gpu.session import ChoosingGPUSession, GPUSession
from trtc.runtime.gpu.stream import Stream
from trtc.runtime.options import SessionOptions

KEPT = 16      # decode steps of different sizes that are bound and recorded at a time
OVERLAPS = 90  # the architecture from which on launches may overlap


class NoInputs:
    """A plan's weights are no inputs."""

    addresses: Mapping[str, int] = {}


def open_plan(bundle: EngineBundle, options: SessionOptions) -> GPUSession:
    """Load the plan that is in ``bundle``.

    Errors:
        MissingPackage: CUDA's bindings or cuBLAS are not installed.
        TrtcError: the engine is damaged, or this machine cannot run it.
    """
    stream, executor = open_executor(bundle, options.device)
    kind = ChoosingGPUSession if Tensors(bundle.ranks[0]).chooses else GPUSession
    how: dict[str, Any] = {"chunk": options.prefill_chunk, "graphs": options.cuda_graphs, "kept": KEPT}
    how["pool"] = options.kv_cache_tokens
    return kind(bundle, stream, executor, NoInputs(), **how)


def open_executor(bundle: EngineBundle, number: int) -> tuple[Stream, PlanExecutor]:
    """Load the plan on a GPU, and what it needs to run.

    Errors: as of `open_plan`.
    """
    device = open_device(number)
    plan = read_plan(bundle, device)
    least = {"weights": plan.weight_bytes, "activations": plan.scratch_bytes}
    require(device, MemoryPlan(least | {f"KV cache of {STEP} tokens": STEP * bundle.cache.bytes_per_token}))
    stream, kernels = Stream(device), load_kernels(plan, device)
    products = open_products(plan, stream) if plan.has_products else None
    machine = Machine(stream, kernels, products, plan.architecture >= OVERLAPS)
    multiprocessors = device.attribute("MULTIPROCESSOR_COUNT")
    weights = PlanWeights(plan, evaluate(plan.counter_bytes, {"multiprocessors": multiprocessors}), device, stream)
    return stream, PlanExecutor(plan, machine, weights, multiprocessors)


def open_products(plan: Plan, stream: Stream) -> Products:
    """cuBLASLt, with the choices of earlier processes.

    Errors: as of `CublasLt`.
    """
    library = CublasLt(stream.device)
    return Products(library, stream, Choices(plan.folder, stream.device, library.version))


def load_kernels(plan: Plan, device: Device) -> list[Kernel]:
    """The kernels of a plan, in its order.

    Errors:
        TrtcError: the driver refuses a file.
    """
    modules: dict[str, Module] = {}
    for each in plan.kernels:
        if each.file not in modules:
            modules[each.file] = Module.open(device, plan.folder / each.file)
    return [modules[each.file].kernel(each.entry, each.shared_bytes) for each in plan.kernels]
