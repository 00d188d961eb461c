"""Other weights for a plan that is built: into the file beside it, or into the plan itself, on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trtc.backend.bundle import HashingFile
from trtc.backend.tensorrt.bindings import dtype_of, logger
from trtc.backend.tensorrt.diagnose import Diagnostics
from trtc.backend.tensorrt.weightless import without_weights
from trtc.backend.tensorrt.weights import weights
from trtc.errors import TrtcError
from trtc.ir.graph import Graph
from trtc.ir.materialize import stream
from trtc.ir.op import Array


def check_same(have: Graph, want: Graph) -> None:
    """Refuse a graph that differs from a plan's in anything but the contents of its weights.

    Args:
        have: what the new checkpoint gives.
        want: what the plan was built from.
    Errors:
        TrtcError: a weight has another shape or element type, or is missing, or the computation is another.
    """
    new, old = ({item.name: item.value.type for item in weights(graph)} for graph in (have, want))
    for name, of in old.items():
        if name not in new:
            raise TrtcError(f"the checkpoint has no {name}, but the engine has one of {of}")
        if new[name] != of:
            raise TrtcError(f"{name} is {new[name]} in the checkpoint, but {of} in the engine")
    if extra := [name for name in new if name not in old]:
        raise TrtcError(f"the checkpoint has {extra[0]}, {new[extra[0]]}, but the engine has no such weight")
    if without_weights(have) != without_weights(want):
        note = "help: trtc compile makes an engine of this checkpoint"
        raise TrtcError("the checkpoint computes with its weights what the engine does not: its config differs", note)


def refit_plan(
    trt: Any, plan: bytes, graph: Graph, tensors: Mapping[str, Array], file: HashingFile, *,
    threads: int = 2, release: Callable[[str], None] = lambda _: None,
) -> None:   # fmt: skip
    """Write a plan anew, with the weights of a graph in place of its own; needs a GPU.

    Errors:
        BuildError: TensorRT does not load the plan, or refuses a weight.
    """
    diagnostics = Diagnostics(trt)
    runtime = trt.Runtime(logger(trt))
    if runtime is not None:
        runtime.error_recorder = diagnostics.recorder
    engine = runtime and runtime.deserialize_cuda_engine(plan)
    diagnostics.check()
    if not engine:
        reason = "there is no GPU here" if diagnostics.driverless else "it does not load the plan"
        raise diagnostics.refusal(None, reason)
    refitter, kept = trt.Refitter(engine, logger(trt)), list[Array]()
    refitter.error_recorder = diagnostics.recorder
    for item, array in stream(weights(graph), tensors, threads=threads, release=release):
        kept.append(array)   # TensorRT reads it in refit_cuda_engine
        taken = refitter.set_named_weights(item.name, view(trt, item.value.type.dtype, array))
        diagnostics.check()
        if not taken:
            raise diagnostics.refusal(None, f"{item.name} cannot be exchanged")
    if missing := refitter.get_missing_weights():
        raise diagnostics.refusal(None, f"{missing[0]} must be exchanged, too")
    done = refitter.refit_cuda_engine()
    diagnostics.check()
    if not done:
        raise diagnostics.refusal(None, "it did not exchange the weights and gave no reason")
    file.write(memoryview(engine.serialize()))


def view(trt: Any, dtype: Any, array: Array) -> Any:
    """TensorRT's view of an array: by pointer, or in 8.6 the array itself."""
    if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        return trt.Weights(dtype_of(trt, dtype), array.ctypes.data, array.size)
    return trt.Weights(array)
