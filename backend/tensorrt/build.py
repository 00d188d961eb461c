"""A legal graph and its weights, built into a plan."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import IO, Any

from trtc.backend.tensorrt.bindings import logger, rtx
from trtc.backend.tensorrt.diagnose import Diagnostics, refusal
from trtc.backend.tensorrt.emit import Emitter
from trtc.backend.tensorrt.profiles import add_profiles
from trtc.backend.tensorrt.weights import Progress, let_go, store
from trtc.errors import TrtcError
from trtc.ir.graph import Graph
from trtc.ir.op import Array
from trtc.ir.types import TensorType

PLAN = "model.plan"


def build(
    graph: Graph,
    tensors: Mapping[str, Array],
    folder: Path,
    *,
    threads: int = 2,
    progress: Progress = lambda phase, done, total: None,
    release: Callable[[str], None] = lambda key: None,
) -> dict[str, Any]:
    """Write ``folder/model.plan`` and return what engine.json says of it: the file, its inputs and its outputs.

    Args:
        graph: legal for tensorrt-rtx.
        tensors: each weight by its key; a view of a mapped file serves, and is not copied.
        threads: how many constants are made at a time.
        progress: told the phase ("materialize" in bytes, "build" in steps), how much is done, and how much there is.
        release: told each key whose tensor has been read for the last time.
    Errors:
        MissingPackage: TensorRT-RTX is not installed.
        BuildError: it refuses an op or the network.
        TrtcError: the plan cannot be written.
    """
    trt = rtx()
    diagnostics = Diagnostics(trt)
    builder = trt.Builder(logger(trt))
    builder.error_recorder = diagnostics.recorder
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    emit = Emitter(trt, network, graph, diagnostics)
    names = emit_network(emit, tensors, threads=threads, progress=progress, release=release)
    config = builder.create_builder_config()
    add_profiles(builder, config, graph)
    diagnostics.check()
    folder.mkdir(parents=True, exist_ok=True)
    with _written_whole(folder / PLAN) as file:
        _serialize(emit, builder, config, file, progress)
    let_go(graph, release)
    return signature(graph, names)


def emit_network(
    emit: Emitter,
    tensors: Mapping[str, Array],
    *,
    threads: int = 2,
    progress: Progress = lambda phase, done, total: None,
    release: Callable[[str], None] = lambda key: None,
) -> dict[str, str]:
    """Fill the emitter's network; the name there of each of the graph's outputs."""
    emit.inputs()
    store(emit, tensors, threads=threads, progress=progress, release=release)
    emit.body()
    return emit.outputs()


def signature(graph: Graph, names: Mapping[str, str]) -> dict[str, Any]:
    """The plan's file name, inputs and outputs, as engine.json states them."""
    outputs = [
        _tensor(names[key], value.type) | ({"alias": key} if key in graph.aliases else {})
        for key, value in graph.outputs.items()
    ]
    return {"engine": PLAN, "inputs": [_tensor(i.key, i.type) for i in graph.inputs], "outputs": outputs}


def _tensor(name: str, of: TensorType) -> dict[str, Any]:
    return {"name": name, "dtype": str(of.dtype), "shape": [s if isinstance(s, int) else str(s) for s in of.shape]}


def _serialize(emit: Emitter, builder: Any, config: Any, file: IO[bytes], progress: Progress) -> None:
    raised: list[BaseException] = []   # TensorRT swallows what callbacks raise: kept here, raised after
    writer = _writer(emit.trt, file, raised)
    config.progress_monitor = _monitor(emit.trt, progress, raised)
    built = builder.build_serialized_network_to_stream(emit.network, config, writer)
    if raised:
        raise raised[0]
    emit.diagnostics.check()
    if not built:
        raise refusal(None, "it built no plan and gave no reason")


def _writer(trt: Any, file: IO[bytes], raised: list[BaseException]) -> Any:
    class Writer(trt.IStreamWriter):
        def __init__(self) -> None:
            trt.IStreamWriter.__init__(self)

        def write(self, data: bytes) -> int:
            try:
                return file.write(data)
            except BaseException as error:   # also Ctrl-C: the build must end first
                raised.append(error)
                return 0

    return Writer()


def _monitor(trt: Any, progress: Progress, raised: list[BaseException]) -> Any:
    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.done = self.total = 0

        def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
            self.total += num_steps
            self._report()

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.done += 1
            self._report()
            return not raised

        def phase_finish(self, phase_name: str) -> None:
            self._report()

        def _report(self) -> None:
            try:
                progress("build", min(self.done, self.total), self.total)
            except BaseException as error:   # also Ctrl-C: the next step ends the build
                raised.append(error)

    return Monitor()


@contextlib.contextmanager
def _written_whole(file: Path) -> Generator[IO[bytes], None, None]:
    """A file that gets its name once it is whole; nothing stays behind if it does not come to that."""
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as stream:
            yield stream
        partial.replace(file)
    except OSError as error:
        raise TrtcError(f"{file} cannot be written: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
