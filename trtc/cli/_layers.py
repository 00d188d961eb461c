"""The layers of a built engine and where its time goes: ``trtc inspect --layers`` and ``--profile``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from trtc.backend.gpu import gpus
from trtc.cli._table import table
from trtc.errors import TrtcError

if TYPE_CHECKING:
    from trtc.backend.tensorrt.engine_layers import Profiles
    from trtc.ir.graph import Graph
    from trtc.ir.op import Op
    from trtc.runtime.bundle import EngineBundle

RUNTIMES = {"cuda": "trtc.runtime.cuda.layers"}
RUNTIME = "trtc.runtime.tensorrt.layers"   # of the other targets
ORIGIN = "help: trtc inspect --layers reads engines of tensorrt, tensorrt-rtx and cuda"


def engine_layers(bundle: EngineBundle, graph: Graph, said: Path | None) -> Profiles:
    """The layers of an engine by profile: from an inspector's JSON if there is one, else from the plan.

    Args:
        graph: that the engine was built from.
        said: the file of what ``EngineInspector`` says.
    """
    from trtc.backend.tensorrt.engine_layers import inspected_layers, plan_layers

    if said:
        return inspected_layers(read_json(said), graph)
    if bundle.target.name == "tensorrt-rtx":
        return plan_layers((bundle.path / bundle.ranks[0].engine).read_bytes(), graph)
    if bundle.target.name == "cuda":
        return _steps(bundle, graph)
    if bundle.target.name != "tensorrt":
        raise TrtcError(f"{bundle.path} is of target {bundle.target.name}, whose layers are its ops", ORIGIN)
    return inspected_layers(_runtime("layers", bundle), graph)


def _steps(bundle: EngineBundle, graph: Graph) -> Profiles:
    """The steps of launch plans by phase, each with the ops of its place."""
    from trtc.backend.tensorrt.engine_layers import EngineLayer
    from trtc.runtime.cuda.layers import step_name
    from trtc.runtime.cuda.plan import read_plans

    places: dict[str, list[Op]] = {}
    for op in graph.ops:
        places.setdefault(op.loc, []).append(op)
    return [
        [EngineLayer(step_name(s), plan.words(s), tuple(places.get(s.get("loc", ""), ()))) for s in phase.steps]
        for plan in read_plans(bundle)
        for phase in plan.phases
    ]


def layers_text(bundle: EngineBundle, profiles: Profiles) -> str:
    """Each profile's layers, and what each was made of."""
    from trtc.backend.tensorrt.engine_layers import spelt

    headings, parts = _headings(bundle, len(profiles)), list[str]()
    for number, layers in enumerate(profiles):
        rows = [(n, layer.kind, shorten(layer.name), spelt(layer.ops)) for n, layer in enumerate(layers)]
        parts.append(f"{headings[number]}\n{table([('', 'kind', 'engine layer', 'ops'), *rows], '  ')}")
    return "\n\n".join(parts)


def shorten(name: str, width: int = 48) -> str:
    """A name of this many letters at most."""
    return name if len(name) <= width else f"{name[: width - 3]}..."


def _headings(bundle: EngineBundle, count: int) -> list[str]:
    """What stands above the layers of each profile: its name, and the range of each size."""
    found = list[tuple[str, Mapping[str, tuple[int, ...]]]]()
    if bundle.target.name == "cuda":
        from trtc.runtime.cuda.plan import read_plans

        plans = read_plans(bundle)
        named = {plan.architecture: f"cuda:{plan.architecture}, " if len(plans) > 1 else "" for plan in plans}
        found = [(f"{named[p.architecture]}{phase.name}", phase.bounds) for p in plans for phase in p.phases]
    else:
        ranges = bundle.ranks[0].profiles
        found = [(f"profile {number}", ranges[number] if ranges else {}) for number in range(count)]
    return [
        ", ".join([name, *(f"{size} in {given[0]}..{given[-1]}" for size, given in sizes.items())])
        for name, sizes in found
    ]


def layers_record(profiles: Profiles) -> list[list[dict[str, Any]]]:
    """The same for ``--json``."""
    return [
        [{"name": x.name, "kind": x.kind, "ops": [{"op": op.name, "loc": op.loc} for op in x.ops]} for x in layers]
        for layers in profiles
    ]


def profile_text(bundle: EngineBundle, graph: Graph, profiles: Profiles, measured: Mapping[str, Any]) -> str:
    """Where the time of one run went.

    Args:
        measured: ``profile``, its number; ``sizes`` of the run by name; ``context``, keys that attention saw;
            ``seconds``: by the name of a layer, the times of each that has it.
    """
    from trtc.backend.tensorrt.engine_layers import spelt
    from trtc.backend.tensorrt.layer_times import timed

    number = int(measured["profile"])
    sizes, context = _sizes(graph, measured["sizes"]), measured.get("context")
    found = timed(profiles[number], measured["seconds"], graph, sizes, context)
    device = next(iter(gpus()), None)
    whole = sum(group.seconds for group in found) or 1.0
    head = ("ms", "%", "layers", "MB", "GFLOP", "roofline ms", "% of it", "ops")
    rows = [
        (
            f"{group.seconds * 1e3:.3f}", f"{group.seconds / whole:.1%}", len(group.layers),
            f"{group.cost.bytes / 1e6:.2f}", f"{group.cost.flops / 1e9:.2f}",
            f"{group.cost.seconds(device.flops, device.bandwidth) * 1e3:.3f}" if device else "",
            f"{group.efficiency(device.flops, device.bandwidth):.0%}" if device else "",
            spelt(group.ops) or ", ".join(layer.name for layer in group.layers),
        )
        for group in found
    ]   # fmt: skip
    shown = ", ".join(f"{name} = {size}" for name, size in measured["sizes"].items())
    heading = _headings(bundle, len(profiles))[number]
    return f"{heading}: {shown}, {whole * 1e3:.3f} ms\n{table([head, *rows], '  ')}"


def measured_run(bundle: EngineBundle, times: Path | None) -> dict[str, Any]:
    """What a run on this machine's GPU took, or one that was recorded."""
    return read_json(times) if times else _runtime("times", bundle)


def _runtime(name: str, bundle: EngineBundle) -> dict[str, Any]:
    """What the runtime says of an engine that it loads: ``layers``, the inspector's JSON, or ``times`` of a run."""
    if not gpus():
        raise TrtcError(f"{bundle.path} says this only where it runs, but there is no GPU here")
    try:
        runtime = import_module(RUNTIMES.get(bundle.target.name, RUNTIME))
    except ModuleNotFoundError:
        note = "help: give a file of what it said to --inspector, or of a run to --times"
        raise TrtcError("this release does not ask an engine for its layers", note) from None
    return getattr(runtime, name)(bundle)


def _sizes(graph: Graph, given: Mapping[str, int]) -> dict[str, int]:
    """The value of each size: as given, or else the greatest."""
    return {name: int(given.get(name, most)) for name, (_, most) in graph.bounds.items()}


def read_json(file: Path) -> dict[str, Any]:
    """The object in a file."""
    try:
        document: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise TrtcError(f"{file} cannot be read, but must be JSON") from None
    if not isinstance(document, dict):
        raise TrtcError(f"{file} must hold one JSON object")
    return cast("dict[str, Any]", document)
