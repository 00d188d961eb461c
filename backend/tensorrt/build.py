"""A legal graph and its weights, built into a plan."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from trtc.backend.bundle import BundleWriter, HashingFile, Progress, signature, silent
from trtc.backend.tensorrt.api import PRODUCTS, api_of
from trtc.backend.tensorrt.bindings import logger, module
from trtc.backend.tensorrt.diagnose import Diagnostics
from trtc.backend.tensorrt.emit import Emitter
from trtc.backend.tensorrt.profiles import add_profiles
from trtc.backend.tensorrt.weights import let_go, store, stored_bytes
from trtc.errors import TrtcError
from trtc.ir.graph import Graph
from trtc.ir.op import Array
from trtc.ir.target import Target

__all__ = ["build", "emit_network", "stored_bytes"]

WHOLE = 1000   # a build in all, as progress is told


def build(
    graph: Graph,
    tensors: Mapping[str, Array],
    bundle: BundleWriter,
    folder: str,
    *,
    target: Target,
    threads: int = 2,
    progress: Progress = silent,
    release: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Write ``folder/model.plan`` into a bundle.

    Args:
        graph: legal for the target.
        tensors: the checkpoint's tensors by key; a view of a mapped file is handed to TensorRT as it is.
        threads: constants that are materialised at a time.
        progress: told of "weights" in bytes, then of "build" in thousandths.
        release: told each key whose tensor is in the plan.
    Result:
        What engine.json says of this rank: the engine's file, its inputs and outputs.
    Errors:
        MissingPackage: the target's TensorRT is not installed.
        TrtcError: the one that is installed has another version.
        BuildError: it refuses an op or the network.
    """
    trt, said = installed(target), signature(graph)
    builder, emit = begin(trt, graph)
    emit_network(emit, tensors, threads=threads, progress=progress, release=release)
    config = builder.create_builder_config()
    add_profiles(builder, config, graph)
    emit.types.configure(config, graph)
    emit.diagnostics.check()
    with bundle.open(f"{folder}/model.plan") as file:
        _serialize(emit, builder, config, file, progress)
    let_go(graph, release)
    return {"engine": f"{folder}/model.plan", **said}


def installed(target: Target) -> Any:
    """The Python module that builds for a target, in its version."""
    trt = module(target.name)
    if api_of(target.name, trt.__version__) != api_of(target.name, target.version):
        note = f"help: --target {target.name}, or install {target.version}"
        raise TrtcError(f"{target} is asked for, but {PRODUCTS[target.name]} {trt.__version__} is installed", note)
    return trt


def begin(trt: Any, graph: Graph) -> tuple[Any, Emitter]:
    """A builder, which must not die before its network, and what fills the network with a graph."""
    diagnostics = Diagnostics(trt)
    builder = trt.Builder(logger(trt))
    builder.error_recorder = diagnostics.recorder
    flags = trt.NetworkDefinitionCreationFlag
    kind = flags.STRONGLY_TYPED if hasattr(flags, "STRONGLY_TYPED") else flags.EXPLICIT_BATCH
    return builder, Emitter(trt, builder.create_network(1 << int(kind)), diagnostics, graph)


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


def _serialize(emit: Emitter, builder: Any, config: Any, file: HashingFile, progress: Progress) -> None:
    raised: list[BaseException] = []   # by callbacks: the build ends, then the first is raised
    if hasattr(config, "progress_monitor"):   # from 10.0
        config.progress_monitor = _monitor(emit.trt, progress, raised)
    with _interrupts(raised):
        if hasattr(builder, "build_serialized_network_to_stream"):   # from 10.13.3
            built = builder.build_serialized_network_to_stream(emit.network, config, _writer(emit.trt, file, raised))
        elif built := builder.build_serialized_network(emit.network, config):
            file.write(memoryview(built))
    if raised:
        raise raised[0]
    emit.diagnostics.check()
    if not built:
        raise emit.diagnostics.refusal(None, "it built no plan and gave no reason")


@contextmanager
def _interrupts(raised: list[BaseException]) -> Generator[None, None, None]:
    """Keep Ctrl-C until the build ends, at its next step: TensorRT would swallow what it raises in a callback."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def keep(number: int, frame: FrameType | None) -> None:
        raised.append(KeyboardInterrupt())

    before = signal.signal(signal.SIGINT, keep)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.default_int_handler)


def _writer(trt: Any, file: HashingFile, raised: list[BaseException]) -> Any:
    class Writer(trt.IStreamWriter):
        def __init__(self) -> None:
            trt.IStreamWriter.__init__(self)

        def write(self, data: bytes) -> int:
            return _caught(raised, file.write, data)

    return Writer()


def _monitor(trt: Any, progress: Progress, raised: list[BaseException]) -> Any:
    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.open: list[list[int]] = []   # steps done and steps in all of each phase under way, outermost first
            self.told = -1

        def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
            self.open.append([0, num_steps])
            self.tell(self.part())

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.open[-1][0] += 1
            self.tell(self.part())
            return not raised

        def phase_finish(self, phase_name: str) -> None:
            self.open.pop()
            self.tell(self.part() if self.open else WHOLE)

        def part(self) -> int:
            part, step = 0.0, float(WHOLE)
            for done, steps in self.open:
                step /= steps
                part += done * step
            return int(part)

        def tell(self, part: int) -> None:
            if part > self.told and not raised:
                self.told = part
                _caught(raised, progress, "build", part, WHOLE)

    return Monitor()


def _caught(raised: list[BaseException], call: Callable[..., Any], *arguments: Any) -> Any:
    """What the call gives; what it raises is kept, as TensorRT would swallow it."""
    try:
        return call(*arguments)
    except BaseException as error:
        raised.append(error)
        return 0
