"""``trtc dump``: a graph as text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trtc.cli import _options as options
from trtc.cli._graphs import engine_graph, write_graph
from trtc.errors import TrtcError

if TYPE_CHECKING:
    from trtc.compiler import Model
    from trtc.ir.graph import Graph

STAGES = ("import", "fuse", "legalize")
Folder = Annotated[Path, typer.Argument(metavar="MODEL_DIR|ENGINE_DIR", help="A model, or what trtc compile made.")]
Stage = Annotated[str, typer.Option(metavar="STAGE", help="import (plain ops), fuse or legalize (for --target).")]
Output = Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write here instead of to stdout.")]


def dump(
    folder: Folder,
    stage: Stage = "",
    output: Output = None,
    target: options.TargetName = "",
    dtype: options.DType = "",
    max_batch_size: options.MaxBatchSize = 8,
    max_input_len: options.MaxInputLen = 0,
    max_seq_len: options.MaxSeqLen = 0,
    all_logits: options.AllLogits = False,
    load: options.Load = None,
) -> None:
    """Print the graph of a model or an engine.

    Of a checkpoint: as it is imported, or at a later --stage. Of an engine: the graph it was built from.
    """
    from trtc.plugins import load_all

    load_all(load)
    if (folder / "engine.json").is_file():
        if stage or target or dtype:
            raise TrtcError(f"{folder} is an engine, which has no --stage, --target or --dtype, but a model has")
        write_graph(engine_graph(folder), output)
        return
    from trtc.compiler import read_model

    model = read_model(
        folder, dtype=dtype, max_batch_size=max_batch_size, max_input_len=max_input_len, max_seq_len=max_seq_len,
        all_logits=all_logits,
    )   # fmt: skip
    write_graph(_at(stage or "import", model, target), output)


def _at(stage: str, model: Model, target: str) -> Graph:
    from trtc.compiler import plan
    from trtc.ir.errors import nearest
    from trtc.passes import Pipeline

    if stage not in STAGES:
        raise TrtcError(f"--stage is {stage}, but must be one of {', '.join(STAGES)}", *nearest(stage, STAGES))
    if stage == "legalize":
        return plan(model, target=target).graph
    return Pipeline.parse("fuse" if stage == "fuse" else "").run(model.graph)
