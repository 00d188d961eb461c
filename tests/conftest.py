"""What the whole suite shares: graphs round-trip as text; textual tests.

``*.trtc`` files hold cases: a RUN line, a graph, and the graph (or error) expected. ``pytest --update`` rewrites
what is expected. Every case is also evaluated in NumPy, before and after.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")   # there is a process a core already: more threads wait for each other

import logging
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import fuzz
import pytest
from testing_target import PRIMITIVES, TARGET

from trtc.backend.targets import TARGETS
from trtc.errors import TrtcError
from trtc.ir.graph import Graph
from trtc.ir.text import parse
from trtc.passes import Pipeline
from trtc.passes.observe import Check
from trtc.passes.pipeline import Observer

SPLIT = "// -----\n"
TARGETS.update({t.name: lambda _, t=t: t for t in (TARGET, PRIMITIVES)})


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update", action="store_true", help="rewrite the expected graphs of *.trtc")


def pytest_collect_file(parent: pytest.Collector, file_path: Path) -> pytest.Collector | None:
    if file_path.suffix != ".trtc":
        return None
    return TextFile.from_parent(parent, path=file_path)   # pyright: ignore[reportUnknownMemberType]


class TextFile(pytest.File):
    """A file of textual tests."""

    def collect(self) -> Iterator[pytest.Item]:
        for case in re.split(r"(?m)^(?=// RUN: )", self.path.read_text())[1:]:
            found = re.search(r"^graph @(\w+)", case, re.MULTILINE)
            name = found[1] if found else "?"
            yield TextCase.from_parent(self, name=name, case=case)   # pyright: ignore[reportUnknownMemberType]


class TextCase(pytest.Item):
    """One graph, a pipeline, and what it makes of the graph."""

    def __init__(self, *, case: str, **kwargs: object) -> None:
        super().__init__(**kwargs)   # pyright: ignore[reportArgumentType, reportUnknownMemberType]
        self.case = case

    def runtest(self) -> None:
        before, _, expected = self.case.partition(SPLIT)
        made = run(before, self.path.name)
        if self.config.getoption("--update"):
            text = self.path.read_text()
            end = "\n" if expected.endswith("\n\n") or not expected else ""
            self.path.write_text(text.replace(self.case, f"{before}{SPLIT}{made}\n{end}"))
        elif "graph @" in expected:
            assert comments(made) == comments(expected)
            assert parse(made) == parse(expected), f"got:\n{made}\nexpected:\n{expected}"
        else:
            assert made == expected.strip()

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, f"{self.path.name}: {self.name}"


def run(before: str, file: str) -> str:
    """The graph that a case's pipeline makes, after a comment for each match that a rule skipped; or the error."""
    command = shlex.split(before.splitlines()[0].removeprefix("// RUN: "))
    assert command[:3] == ["trtc", "opt", "%s"] and command[3] == "-p", f"not a command of a textual test: {command}"
    heard = Listener()
    log = logging.getLogger("trtc.rewrite")
    log.addHandler(heard)
    level = log.level
    log.setLevel(logging.INFO)
    try:
        graph = Pipeline.parse(command[4]).run(parse(before, file), Check(seed=0), Check(seed=1))
    except TrtcError as error:
        return str(error)
    finally:
        log.setLevel(level)
        log.removeHandler(heard)
    return "\n".join([*dict.fromkeys(heard.skips), str(graph)])


class Listener(logging.Handler):
    """Collects why rules did not apply."""

    def __init__(self) -> None:
        super().__init__()
        self.skips: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "skipped" in record.getMessage():
            self.skips.append(f"// {record.getMessage()}")


def comments(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("//")]


@pytest.fixture(scope="session", autouse=True)
def graphs_round_trip() -> Iterator[None]:
    """What a pipeline of the suite starts from and what it ends with: its text reads back as an equal graph.

    So does what each of its passes makes, with TRTC_FUZZ=1.
    """
    read: set[int] = set()   # hashes of texts: tests meet the same graphs

    def check(graph: Graph) -> None:
        text = str(graph)
        if hash(text) not in read:
            assert parse(text) == graph, f"the text of @{graph.name} reads back as another graph: {text}"
            read.add(hash(text))

    run = Pipeline.run

    def checked(pipeline: Pipeline, graph: Graph, *observers: Observer, limit: int | None = None) -> Graph:
        each: tuple[Observer, ...] = (lambda step: check(step.after),) if fuzz.ALL else ()
        made = run(pipeline, graph, *observers, *each, limit=limit)
        check(graph)
        check(made)
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pipeline, "run", checked)
        yield
