"""``trtc inspect``: what an engine is."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trtc.cli import _options as options
from trtc.cli._graphs import engine_graph
from trtc.cli._layers import engine_layers, layers_record, layers_text, measured_run, profile_text
from trtc.cli._outline import op_counts, outline, parameters, tensor_rows
from trtc.cli._table import amount, table

if TYPE_CHECKING:
    from trtc.ir.graph import Graph
    from trtc.runtime.bundle import EngineBundle, Tensor

Layers = Annotated[bool, typer.Option("--layers", help="The engine's layers, and the ops each was made of.")]
Profile = Annotated[bool, typer.Option("--profile", help="Run it here, and say where the time goes.")]
Inspector = Annotated[Path | None, typer.Option(metavar="FILE", help="JSON of TensorRT's inspector: no GPU is asked.")]
Times = Annotated[Path | None, typer.Option(metavar="FILE", help="JSON of a recorded run: no GPU is asked.")]
EngineDir = Annotated[Path, typer.Argument(metavar="ENGINE_DIR", help="What trtc compile made.")]


def inspect(
    engine_dir: EngineDir,
    layers: Layers = False,
    profile: Profile = False,
    inspector: Inspector = None,
    times: Times = None,
    load: options.Load = None,
    as_json: options.Json = False,
) -> None:
    """Show what an engine is: target, inputs and outputs, sizes, ops; its layers, and where its time goes.

    What TensorRT has fused is shown by --layers: each layer of the engine with the ops it was made of. On a GPU,
    --profile adds the time of a run beside bytes, operations and the least time that the hardware needs for them.
    """
    from trtc.plugins import load_all
    from trtc.runtime.bundle import EngineBundle

    bundle = EngineBundle.open(engine_dir, verify=False)
    load_all(load)
    graph = engine_graph(engine_dir)
    if profile or times:
        found = engine_layers(bundle, graph, inspector)
        print(profile_text(bundle, graph, found, measured_run(bundle, times)))
        return
    if layers or inspector:
        found = engine_layers(bundle, graph, inspector)
        print(json.dumps(layers_record(found), indent=1) if as_json else layers_text(bundle, found))
        return
    print(json.dumps(_record(bundle, graph), indent=1) if as_json else _text(bundle, graph))


def _record(bundle: EngineBundle, graph: Graph) -> dict[str, Any]:
    ranks = [
        {"rank": r.rank, "engine": r.engine, "inputs": _told(r.inputs), "outputs": _told(r.outputs)}
        | ({"profiles": r.profiles} if r.profiles else {})
        | ({"weights": r.weights.file} if r.weights else {})
        for r in bundle.ranks
    ]
    return {
        "path": str(bundle.path),
        "trtc_version": bundle.trtc_version,
        "target": vars(bundle.target),
        "source": vars(bundle.source),
        "dtype": bundle.dtype,
        "parameters": parameters(graph),
        "bytes": _bytes(bundle),
        "files": {name: entry.bytes for name, entry in bundle.files.items()},
        "limits": vars(bundle.limits),
        "cache": vars(bundle.cache),
        "pipeline": bundle.pipeline,
        "builder": bundle.builder,
        "bounds": bundle.bounds,
        "ranks": ranks,
        "ops": [{"op": name, "count": count, "weight_bytes": size} for name, count, size in op_counts(graph)],
    }


def _told(tensors: Iterable[Tensor]) -> list[dict[str, Any]]:
    return [{key: said for key, said in vars(tensor).items() if said is not None} for tensor in tensors]


def _bytes(bundle: EngineBundle) -> int:
    return sum(entry.bytes for entry in bundle.files.values())


def _text(bundle: EngineBundle, graph: Graph) -> str:
    rows = outline(
        graph, target=f"{bundle.target.name}:{bundle.target.version}", architecture=bundle.source.architecture,
        dtype=bundle.dtype, limits=vars(bundle.limits), cache=vars(bundle.cache), pipeline=bundle.pipeline,
    )   # fmt: skip
    files = ", ".join(f"{name} {amount(entry.bytes)}" for name, entry in bundle.files.items())
    given = ", ".join(f"{name} {value}" for name, value in bundle.builder.items())
    options = [("builder", given)] if given else []
    head = [("engine", f"{bundle.path}, made by trtc {bundle.trtc_version}"), *rows, *options]
    head.append(("source", bundle.source.path))
    parts = [table([*head, ("files", f"{amount(_bytes(bundle))}: {files}")])]
    bounds = ", ".join(f"{size} in {low}..{high}" for size, (low, high) in bundle.bounds.items())
    for rank in bundle.ranks:
        for word, tensors in (("inputs", rank.inputs), ("outputs", rank.outputs)):
            parts.append(f"{word} of {rank.engine}, {bounds}\n{table(tensor_rows(tensors), '  ')}")
    total = op_counts(graph)
    sums = ("", sum(count for _, count, _ in total), sum(size for *_, size in total))
    parts.append(table([("op", "count", "bytes of weights"), *total, sums]))
    return "\n\n".join(parts)
