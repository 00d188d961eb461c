"""A legal graph and its weights, built into a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trtc.backend.bundle import BundleWriter, HashingFile, Progress, signature, silent
from trtc.backend.tensorrt.api import PRODUCTS, api_of
from trtc.backend.tensorrt.bindings import complaints, logger, module
from trtc.backend.tensorrt.configure import configure
from trtc.backend.tensorrt.diagnose import Diagnostics
from trtc.backend.tensorrt.emit import Emitter
from trtc.backend.tensorrt.options import Options, check
from trtc.backend.tensorrt.profiles import add_profiles, plan_profiles
from trtc.backend.tensorrt.serialize import interrupts, serialize, stop
from trtc.backend.tensorrt.timing_cache import check_place, save_timing_cache
from trtc.backend.tensorrt.weightless import said_of, without_weights, write_weights
from trtc.backend.tensorrt.weights import let_go, store, stored_bytes, weights
from trtc.errors import TrtcError
from trtc.ir.graph import Graph
from trtc.ir.op import Array
from trtc.ir.target import Target

__all__ = ["PLAIN", "build", "emit_network", "stored_bytes"]

PLAIN = Options()


def build(
    graph: Graph,
    tensors: Mapping[str, Array],
    bundle: BundleWriter,
    folder: str,
    *,
    target: Target,
    options: Options = PLAIN,
    threads: int = 2,
    progress: Progress = silent,
    release: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Write ``folder/model.plan`` into a bundle, and ``folder/weights.safetensors`` where the plan has no weights.

    Args:
        graph: legal for the target.
        tensors: the checkpoint's tensors by key; a view of a mapped file is handed to TensorRT as it is.
        options: what the builder is told.
        threads: constants that are materialised at a time.
        progress: told of "weights" in bytes, then of "build" in thousandths.
        release: told each key whose tensor is in the plan.
    Result:
        What engine.json says of this rank: the engine's file, its inputs and outputs, profiles, file of weights.
    Errors:
        MissingPackage: the target's TensorRT is not installed.
        TrtcError: the one that is installed has another version, or no such option.
        BuildError: it refuses an op, an option or the network.
    """
    check(options, api := api_of(target.name, target.version, target.capability))
    trt, plan = installed(target), f"{folder}/model.plan"
    said: dict[str, Any] = {"engine": plan, **signature(graph), "profiles": plan_profiles(graph, options)}
    given: dict[str, Any] = {"threads": threads, "progress": progress, "release": release}
    if options.weightless or options.strip_plan:
        beside, use = f"{folder}/weights.safetensors", "inputs" if options.weightless else "refit"
        write_weights(bundle, beside, weights(graph), tensors, **given)
        said["weights"] = said_of(graph, beside, use)
    with bundle.open(plan) as file:
        own = without_weights(graph) if options.weightless else graph
        build_plan(trt, own, tensors, file, options, architecture=api.capability, **given)
    return said


def build_plan(
    trt: Any,
    graph: Graph,
    tensors: Mapping[str, Array],
    file: HashingFile,
    options: Options,
    *,
    architecture: int = 0,
    threads: int,
    progress: Progress,
    release: Callable[[str], None],
) -> None:
    """Write one plan. Args: as of `build`; the graph has its weights, or inputs in their place."""
    if options.output_timing_cache:
        check_place(Path(options.output_timing_cache))

    def told(phase: str, done: int, total: int) -> None:
        stop(raised)
        progress(phase, done, total)

    with interrupts() as raised:
        builder, emit = begin(trt, graph, architecture)
        emit_network(emit, tensors, threads=threads, progress=told, release=release)
        config = builder.create_builder_config()
        add_profiles(builder, config, graph, plan_profiles(graph, options))
        emit.types.configure(config, graph)
        emit.diagnostics.check()
        configure(builder, config, emit, options)
        stop(raised)
        serialize(emit, builder, config, file, progress, raised)
    let_go(graph, release)
    if options.output_timing_cache:
        save_timing_cache(config, Path(options.output_timing_cache))


def installed(target: Target) -> Any:
    """The Python module that builds for a target, in its version."""
    trt = module(target.name)
    if api_of(target.name, trt.__version__) != api_of(target.name, target.version):
        note = f"help: --target {target.name}, or install {target.version}"
        raise TrtcError(f"{target} is asked for, but {PRODUCTS[target.name]} {trt.__version__} is installed", note)
    return trt


def begin(trt: Any, graph: Graph, architecture: int = 0) -> tuple[Any, Emitter]:
    """A builder, which must not die before its network, and what fills the network with a graph."""
    diagnostics = Diagnostics(trt)
    try:
        builder = trt.Builder(logger(trt))
    except TypeError:   # that it is null
        raise diagnostics.unstarted() from None
    complaints.clear()   # of libraries that it does without
    builder.error_recorder = diagnostics.recorder
    flags = trt.NetworkDefinitionCreationFlag
    kind = flags.STRONGLY_TYPED if hasattr(flags, "STRONGLY_TYPED") else flags.EXPLICIT_BATCH
    return builder, Emitter(trt, builder.create_network(1 << int(kind)), diagnostics, graph, architecture)


def emit_network(
    emit: Emitter,
    tensors: Mapping[str, Array],
    *,
    threads: int = 2,
    progress: Progress = silent,
    release: Callable[[str], None] = lambda _: None,
) -> None:
    """Fill the emitter's network."""
    emit.inputs()
    store(emit, tensors, threads=threads, progress=progress, release=release)
    emit.body()
    emit.outputs([output["name"] for output in signature(emit.graph)["outputs"]])
