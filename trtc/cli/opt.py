"""``trtc opt``: passes on a graph's text."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from trtc.cli import _options as options
from trtc.cli._debug import explaining
from trtc.cli._graphs import read_graph, write_graph

File = Annotated[Path, typer.Argument(metavar="FILE.trtc", help="A graph as text, or - for stdin.")]
PrintAll = Annotated[bool, typer.Option("--print-after-all", help="Print the graph to stderr after each pass.")]
Limit = Annotated[int | None, typer.Option(metavar="N", min=0, help="Run the first N passes only.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write here instead of to stdout.")]


def opt(
    file: File,
    passes: options.Passes,
    load: options.Load = None,
    explain: options.Explain = False,
    print_after_all: PrintAll = False,
    check: options.Check = False,
    limit: Limit = None,
    output: Output = None,
) -> None:
    """Run passes on a graph and print what becomes of it."""
    from trtc.passes import Pipeline
    from trtc.passes.observe import Check, PrintAfterAll
    from trtc.plugins import load_all

    load_all(load)
    graph = read_graph(file)
    pipeline = Pipeline.parse(passes)
    observers = [*([PrintAfterAll(sys.stderr)] if print_after_all else []), *([Check()] if check else [])]
    with explaining(explain):
        write_graph(pipeline.run(graph, *observers, limit=limit), output)
