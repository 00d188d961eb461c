"""What TensorRT says of a plan's layers on a GPU: which there are, and how long each takes in a decode step."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from statistics import median
from typing import Any

import numpy as np

from trtc.errors import TrtcError
from trtc.runtime.bundle import EngineBundle
from trtc.runtime.gpu.session import GPUSession
from trtc.runtime.tensorrt.session import open_executor

REPEATS = 10   # steps that are timed; the median counts
_PROFILE = re.compile(r" \[profile \d+\]$")


def layers(bundle: EngineBundle) -> dict[str, Any]:
    """The layers of an engine, as TensorRT's ``EngineInspector`` writes them in JSON.

    Errors:
        TrtcError: this machine cannot load the plan.
    """
    _, executor, _ = open_executor(bundle, 0)
    plan = executor.plan
    text = plan.engine.create_engine_inspector().get_engine_information(plan.trt.LayerInformationFormat.JSON)
    return json.loads(text)


def times(bundle: EngineBundle) -> dict[str, Any]:
    """How long each layer takes in a step by one token of one sequence, half of whose positions are taken.

    Result:
        ``profile``, its number; ``sizes`` by name; ``context``, keys that attention sees; ``seconds``: by the name of a
        layer, the times of each that has it.
    Errors:
        TrtcError: this machine cannot run the plan, or the plan tells no times.
    """
    stream, executor, weights = open_executor(bundle, 0)
    session = GPUSession(bundle, stream, executor, weights, graphs=False)
    past, told = bundle.limits.max_seq_len // 2, list[tuple[str, float]]()
    session.start(1, past + 1)
    _step(session, past)   # which makes the context
    (number, sizes), = executor.watch(_profiler(executor.plan.trt, told)).items()
    runs: list[Mapping[str, list[float]]] = []
    for _ in range(REPEATS):
        told.clear()
        _step(session, past)
        runs.append(_by_name(told))
    if not runs[0]:
        raise TrtcError(f"{bundle.path} tells no times of its layers, but a plan for --profile must")
    seconds = {n: [median(run[n][i] for run in runs) for i in range(len(one))] for n, one in runs[0].items()}
    said = {name: size for name, size in sizes.symbols.items() if name in ("B", "T" if sizes.packed else "S", "M")}
    return {"profile": number, "sizes": said, "context": past + 1, "seconds": seconds}


def _step(session: GPUSession, past: int) -> None:
    one = np.ones(1, np.int32)
    session.run(1, np.zeros((1, 1), np.int32), one, past * one).logits()


def _profiler(trt: Any, told: list[tuple[str, float]]) -> Any:
    class Profiler(trt.IProfiler):
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            told.append((layer_name, ms))

    return Profiler()


def _by_name(told: list[tuple[str, float]]) -> Mapping[str, list[float]]:
    found: dict[str, list[float]] = {}
    for name, milliseconds in told:
        found.setdefault(_PROFILE.sub("", name), []).append(milliseconds / 1e3)
    return found
