"""Building the plan of a network: progress, Ctrl-C, and the plan's bytes as they come."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from trtc.backend.bundle import HashingFile, Progress
from trtc.backend.tensorrt.bindings import complaints
from trtc.backend.tensorrt.diagnose import BuildError
from trtc.backend.tensorrt.emit import Emitter
from trtc.errors import UNSTOPPABLE

WHOLE = 1000   # a build in all, as progress is told


def serialize(
    emit: Emitter, builder: Any, config: Any, file: HashingFile, progress: Progress, raised: list[BaseException]
) -> None:
    """Build the emitter's network and write the plan.

    Args:
        raised: what `interrupts` keeps, and callbacks raise: the build ends, then the first is raised.
    Errors:
        BuildError: TensorRT refuses the network, or has no memory left.
    """
    if hasattr(config, "progress_monitor"):   # from 10.0
        config.progress_monitor = _monitor(emit.trt, progress, raised)
    try:
        built = _built(emit, builder, config, file, raised)
        stop(raised)
    except MemoryError:
        raise emit.diagnostics.refusal(None, "out of memory") from None
    complaints.clear()   # of tactics that it has tried and left: what counts, the recorder has
    try:
        emit.diagnostics.check()
        if not built:
            reason = "there is no GPU here" if emit.diagnostics.driverless else "it built no plan and gave no reason"
            raise emit.diagnostics.refusal(None, reason)
    except BuildError as error:
        raise emit.diagnostics.cramped(error) from None


def _built(emit: Emitter, builder: Any, config: Any, file: HashingFile, raised: list[BaseException]) -> bool:
    if hasattr(builder, "build_serialized_network_to_stream"):   # from 10.13.3
        return builder.build_serialized_network_to_stream(emit.network, config, _writer(emit.trt, file, raised))
    if hasattr(config, "progress_monitor"):
        built = builder.build_serialized_network(emit.network, config)
    else:
        built = _awaited(lambda: builder.build_serialized_network(emit.network, config), raised)
    if built:
        file.write(memoryview(built))
    return bool(built)


def _awaited(build: Callable[[], Any], raised: list[BaseException]) -> Any:
    """What a build gives that nothing stops: in a thread, which is left to itself once something is raised."""
    given: list[Any] = []
    thread = threading.Thread(target=lambda: given.append(_caught(raised, build)), name=UNSTOPPABLE, daemon=True)
    thread.start()
    while thread.is_alive() and not raised:
        thread.join(0.1)
    return given[0] if given else None


def stop(raised: list[BaseException]) -> None:
    """Raise the first of what has been kept."""
    if raised:
        raise raised[0]


@contextmanager
def interrupts() -> Generator[list[BaseException], None, None]:
    """Keep Ctrl-C and SIGTERM, to be raised by `stop`: TensorRT would swallow what they raise in its callbacks."""
    raised: list[BaseException] = []
    if threading.current_thread() is not threading.main_thread():
        yield raised
        return

    def keep(number: int, frame: FrameType | None) -> None:
        raised.append(KeyboardInterrupt())

    before = {number: signal.signal(number, keep) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield raised
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


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
