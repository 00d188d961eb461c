"""``trtc refit``: an engine gets the weights of another checkpoint."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from trtc.cli import _options as options
from trtc.cli._shared import progress, say

EngineDir = Annotated[Path, typer.Argument(metavar="ENGINE_DIR", help="What trtc compile --weightless made.")]
Out = Annotated[Path | None, typer.Option("--output", "-o", metavar="ENGINE_DIR", help="Where the new engine goes.")]
Workers = Annotated[int, typer.Option(metavar="N", min=1, help="Weights that are worked on at a time.")]


def refit(
    engine_dir: EngineDir,
    model_dir: options.ModelDir,
    output: Out = None,
    load: options.Load = None,
    workers: Workers = 2,
) -> None:
    """Give an engine the weights of another checkpoint of its shape, without building it again.

    The engine is one that was compiled with --weightless or --strip-plan; or with --refit, which needs a GPU here.
    Without -o, it is replaced.
    """
    from trtc.refitter import refit

    start = time.perf_counter()
    with progress() as report:
        bundle = refit(engine_dir, model_dir, output or "", load=load or [], threads=workers, progress=report)
    seconds, size = time.perf_counter() - start, sum(entry.bytes for entry in bundle.files.values())
    target = f"{bundle.target.name}:{bundle.target.version}"
    say(
        f"engine: {bundle.path}, {target}, {size:,} bytes, {seconds:.1f} s",
        engine=bundle.path, target=target, bytes=size, seconds=seconds,
    )   # fmt: skip
