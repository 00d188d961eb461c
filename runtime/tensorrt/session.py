"""Sessions of TensorRT and TensorRT-RTX."""

from __future__ import annotations

from typing import Any

from trtc.runtime.bundle import EngineBundle
from trtc.runtime.gpu.buffers import Tensors
from trtc.runtime.gpu.device import open_device
from trtc.runtime.gpu.session import ChoosingGPUSession, GPUSession
from trtc.runtime.gpu.stream import Stream
from trtc.runtime.options import SessionOptions
from trtc.runtime.tensorrt.executor import PlanExecutor
from trtc.runtime.tensorrt.plan import load_plan
from trtc.runtime.tensorrt.refit import refit
from trtc.runtime.tensorrt.runtime_cache import RuntimeCache
from trtc.runtime.tensorrt.weights import Uploaded


def open_plan(bundle: EngineBundle, options: SessionOptions) -> GPUSession:
    """Load the plan that is in ``bundle``.

    Errors:
        MissingPackage: TensorRT or CUDA's bindings are not installed.
        TrtcError: this machine cannot run the plan.
    """
    stream, executor, weights = open_executor(bundle, options.device)
    kind = ChoosingGPUSession if executor.tensors.chooses else GPUSession
    how: dict[str, Any] = {"chunk": options.prefill_chunk, "graphs": options.cuda_graphs, "kept": executor.kept}
    return kind(bundle, stream, executor, weights, **how)


def open_executor(bundle: EngineBundle, number: int) -> tuple[Stream, PlanExecutor, Uploaded]:
    """Load the plan on a GPU, and what it needs to run.

    Errors: as of `open_plan`.
    """
    device = open_device(number)
    stream, tensors = Stream(device), Tensors(bundle.ranks[0])
    plan = load_plan(bundle, device)
    said = bundle.ranks[0].weights
    if said and said.use == "refit":
        refit(plan, bundle, said, device)
        said = None
    weights = Uploaded(bundle, said, device, stream)
    return stream, PlanExecutor(plan, device, stream, tensors, RuntimeCache(plan.file, device)), weights
