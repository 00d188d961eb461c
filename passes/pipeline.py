"""Pipelines: passes in order, as text."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, get_type_hints

from trtc.errors import TrtcError
from trtc.ir.errors import ParseError, PassError, Source, nearest
from trtc.ir.graph import Graph
from trtc.passes.base import PASSES, Pass
from trtc.passes.presets import PRESETS

_ITEM = re.compile(r"\s*(?P<name>[\w-]*)\s*(?:\{(?P<options>[^{}]*)\})?\s*(?P<end>,|$)")


@dataclass(frozen=True)
class Step:
    """What an observer is told: one pass, the graph before and after, and the seconds it took."""

    number: int
    by: Pass
    before: Graph
    after: Graph
    seconds: float


Observer: TypeAlias = Callable[[Step], None]


@dataclass(frozen=True)
class Pipeline:
    """Passes in order. ``str(Pipeline.parse(text))`` gives the text back, presets written out.

    >>> str(Pipeline.parse("cse, merge-projections{max-width=4096}"))
    'cse,merge-projections{max-width=4096}'
    """

    passes: tuple[Pass, ...]

    def run(self, graph: Graph, *observers: Observer, limit: int | None = None) -> Graph:
        """The graph after the passes, or the first ``limit``; each result is verified, then shown to observers."""
        for number, a_pass in enumerate(self.passes[:limit], 1):
            start = time.perf_counter()
            try:
                after = _run(a_pass, graph)
                after.verify()
                step = Step(number, a_pass, graph, after, time.perf_counter() - start)
                for observe in observers:
                    observe(step)
            except TrtcError as error:
                error.facts = (*error.facts, f"in pass {number} of {len(self.passes)}, `{a_pass}`")
                raise
            graph = after
        return graph

    def __str__(self) -> str:
        return ",".join(map(str, self.passes))

    @staticmethod
    def parse(text: str) -> Pipeline:
        """The pipeline that a text states: ``pass,pass{option=value option=value},preset``."""
        passes: list[Pass] = []
        at = 0
        while at < len(text):
            match = _ITEM.match(text, at)
            if not match or not match["name"]:
                where = Source("<pipeline>", text, at, at + 1)
                raise ParseError("expected a pass such as `cse` or `legalize{target=onnx}`", source=where)
            where = Source("<pipeline>", text, *match.span("name"))
            passes += _passes(match["name"], (match["options"] or "").split(), where)
            at = match.end()
            if match["end"] == "," and at == len(text):
                raise ParseError("a pass must follow the comma", source=Source("<pipeline>", text, at - 1, at))
        return Pipeline(tuple(passes))


def _run(a_pass: Pass, graph: Graph) -> Graph:
    after: Any = a_pass.run(graph)
    if not isinstance(after, Graph):
        raise PassError(f"{a_pass.name}: run returned {after!r}, but must return a graph")
    return after


def _passes(name: str, options: list[str], where: Source) -> tuple[Pass, ...]:
    if name in PRESETS:
        given = {key: value for key, _, value in (option.partition("=") for option in options)}
        return Pipeline.parse(PRESETS[name].text(given, where)).passes
    if name not in PASSES:
        raise ParseError(f"unknown pass `{name}`", *nearest(name, [*PASSES, *PRESETS]), source=where)
    kind = PASSES[name]
    hints = get_type_hints(kind)
    fields = {f.name.replace("_", "-"): f for f in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    for option in options:
        key, _, value = option.partition("=")
        if key not in fields:
            known = f"its options: {', '.join(fields) or 'none'}"
            raise ParseError(f"pass `{name}` has no option `{key}`", known, source=where)
        if fields[key].name in values:
            raise ParseError(f"pass `{name}` is given the option `{key}` twice", source=where)
        values[fields[key].name] = _value(name, key, value, hints[fields[key].name], where)
    for key, f in fields.items():
        if f.name not in values and f.default is dataclasses.MISSING:
            raise ParseError(f"pass `{name}` needs the option `{key}`", f"help: {name}{{{key}=...}}", source=where)
    return (kind(**values),)


def _value(name: str, key: str, text: str, kind: type, where: Source) -> Any:
    try:
        return {"": True, "true": True, "false": False}[text] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise ParseError(f"option `{key}` of `{name}` takes {kind.__name__}, not `{text}`", source=where) from None
