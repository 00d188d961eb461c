"""Graphs that commands read and write as text."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from trtc.cli._shared import write_atomically
from trtc.errors import TrtcError

if TYPE_CHECKING:
    from trtc.ir.graph import Graph

GRAPH = "graph.trtc"


def read_graph(file: Path) -> Graph:
    """The graph in a text file; of stdin for ``-``."""
    from trtc.ir.errors import ParseError
    from trtc.ir.text import parse

    import_module("trtc.backend.targets")   # the targets' own ops may stand in the text
    if str(file) == "-":
        return parse(sys.stdin.read(), "<stdin>")
    try:
        return parse(file.read_text(encoding="utf-8"), str(file))
    except FileNotFoundError:
        raise TrtcError(f"{file} does not exist, but must be a graph as text") from None
    except IsADirectoryError:
        raise TrtcError(f"{file} is a folder, but must be a graph as text", "help: trtc dump writes one") from None
    except ParseError as error:
        if re.match(r"unknown op `\w+\.", error.message):
            error.facts = (*error.facts, "help: --load FILE, if it is an op of yours")
        raise
    except UnicodeDecodeError:
        raise TrtcError(f"{file} is not UTF-8, but must be a graph as text") from None


def engine_graph(folder: Path) -> Graph:
    """The graph that an engine was made of."""
    if not (folder / GRAPH).is_file():
        raise TrtcError(f"{folder} has no {GRAPH}, but an engine has one", "help: compile the engine again")
    return read_graph(folder / GRAPH)


def write_graph(graph: Graph, output: Path | None) -> None:
    """Write a graph to a file, whole or not at all, or to stdout."""
    if output:
        write_atomically(output, f"{graph}\n")
    else:
        print(graph)
