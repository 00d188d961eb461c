"""``trtc.refit``: an engine gets the weights of another checkpoint, without being built again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trtc.backend.bundle import BundleWriter, Progress, bundle, silent
from trtc.backend.targets import target as find_target
from trtc.backend.tensorrt.bindings import module
from trtc.backend.tensorrt.options import Options
from trtc.backend.tensorrt.refit import check_same, refit_plan
from trtc.backend.tensorrt.weightless import write_weights
from trtc.backend.tensorrt.weights import stored_bytes, weights
from trtc.compiler import Plan, finish, read_model
from trtc.errors import TrtcError
from trtc.ir.text import parse
from trtc.passes import Pipeline
from trtc.plugins import load_all
from trtc.runtime.bundle import EngineBundle


def refit(
    engine: str | Path,
    path: str | Path,
    out: str | Path = "",
    *,
    load: Sequence[str | Path] = (),
    threads: int = 2,
    progress: Progress = silent,
) -> EngineBundle:
    """Give an engine the weights of another checkpoint of its shape.

    Args:
        engine: a bundle that was compiled with ``weightless``, ``strip_plan`` or ``refit``; the last needs a GPU.
        path: the checkpoint.
        out: where the new bundle goes; it replaces the old one where empty.
        load: Python files whose passes the engine's pipeline names.
        threads: weights that are materialised at a time.
        progress: told of phases and bytes.
    Errors: a TrtcError where shapes, element types or configs differ, or the engine has its weights for good; the
        engine stays as it was.
    """
    old = EngineBundle.open(engine)
    exchange = _way(old)
    made = _plan(old, path, load)
    check_same(made.graph, parse((old.path / "graph.trtc").read_text(encoding="utf-8"), str(old.path / "graph.trtc")))
    rank: dict[str, Any] = json.loads((old.path / "engine.json").read_text(encoding="utf-8"))["ranks"][0]
    with bundle(Path(out or engine), stored_bytes(made.graph)) as writer:
        exchange(old, made, writer, threads, progress)
        finish(writer, made, {key: said for key, said in rank.items() if key != "rank"})
    return EngineBundle.open(out or engine, verify=False)


Exchange = Callable[[EngineBundle, Plan, BundleWriter, int, Progress], None]


def _way(old: EngineBundle) -> Exchange:
    """How the weights of an engine are exchanged."""
    if old.ranks[0].weights:
        return _beside
    if old.builder.get("refit"):
        return _inside
    fix = "help: compile it with --weightless, or with --refit to exchange them on a GPU"
    raise TrtcError(f"{old.path} has its weights for good", fix)


def _plan(old: EngineBundle, path: str | Path, load: Sequence[str | Path]) -> Plan:
    """What the old engine's pipeline makes of the new checkpoint."""
    logits = next(t for t in old.ranks[0].outputs if t.name == "logits")
    load_all(load)
    model = read_model(path, dtype=old.dtype, **asdict(old.limits), all_logits=len(logits.shape) > 2)
    pipeline = Pipeline.parse(old.pipeline)
    target = find_target(f"{old.target.name}:{old.target.version}")
    return Plan(model, target, pipeline, pipeline.run(model.graph), Options.read(old.builder))


def _beside(old: EngineBundle, made: Plan, writer: BundleWriter, threads: int, progress: Progress) -> None:
    """Write the file of weights anew; the plan stays."""
    rank, source = old.ranks[0], made.model.checkpoint.source
    assert rank.weights
    items = weights(made.graph)
    write_weights(
        writer, rank.weights.file, items, source, threads=threads, progress=progress, release=source.release
    )   # fmt: skip
    writer.add(rank.engine, old.path / rank.engine)


def _inside(old: EngineBundle, made: Plan, writer: BundleWriter, threads: int, progress: Progress) -> None:
    """Write the plan anew, by TensorRT."""
    rank, source = old.ranks[0], made.model.checkpoint.source
    plan = (old.path / rank.engine).read_bytes()
    with writer.open(rank.engine) as file:
        refit_plan(module(old.target.name), plan, made.graph, source, file, threads=threads, release=source.release)
