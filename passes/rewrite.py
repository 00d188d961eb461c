"""Rewrite rules: a function on one op, made a pass."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from inspect import getdoc, signature
from typing import Any, TypeAlias, TypeVar, cast, get_type_hints

from trtc.ir.errors import PassError
from trtc.ir.graph import Graph
from trtc.ir.op import Op, Value, at
from trtc.passes.base import Pass

log = logging.getLogger("trtc.rewrite")   # `--explain` shows it
ROUNDS, GROWTH = 100, 20   # more rounds, or a graph that many times as large, is a rule that does not end


@dataclass(frozen=True)
class Skip:
    """A rule's answer where the shape matched but a condition failed: why not."""

    reason: str


Answer: TypeAlias = Value | Mapping[Value, Value] | Skip | None
Rule: TypeAlias = Callable[..., Answer]
R = TypeVar("R", bound=Rule)


def rewrite(name: str) -> Callable[[R], R]:
    """Make a rule into a pass: it is tried on every op of the type that its first argument states.

    The rule returns an equal value built from what it matched (or a mapping, to replace several values at once), a
    ``Skip`` that says why not, or None. It may take the graph as a second argument, to ask for users and constants.
    Matches are found on one immutable graph and replaced all at once; that repeats until no rule applies.
    """

    def register(rule: R) -> R:
        first = next(iter(signature(rule).parameters.values()), None)
        if not first or first.annotation is first.empty:
            raise TypeError(f"rule {rule.__name__} must state the kind of op that it takes: rule(op: Add)")

        class Rewrite(Pass, name=name):
            def run(self, graph: Graph) -> Graph:
                return apply(graph, [rule], name)

        Rewrite.__doc__, Rewrite.__qualname__ = getdoc(rule), rule.__name__
        return rule

    return register


def apply(graph: Graph, rules: Sequence[Rule], name: str) -> Graph:
    """The graph after these rules, tried in order on each op, round after round until none applies."""
    by_kind: dict[type[Op], list[Rule]] = {}
    latest = ""
    most = GROWTH * len(graph.ops) + 1000
    for _ in range(ROUNDS):
        if len(graph.ops) > most:
            break   # it doubles, say, what it matches: waiting for the last round would take for ever
        found: dict[Value, Value] = {}
        for op in graph.ops:
            if type(op) not in by_kind:
                by_kind[type(op)] = [r for r in rules if isinstance(op, _shape(r)[0])]
            for rule in by_kind[type(op)]:
                new = _try(rule, op, graph, name)
                if new and not found.keys() & new.keys():
                    found.update(new)
                    latest = rule.__name__
                    break
        if not found:
            return graph
        graph = graph.replace(found)
    message = f"{name}: rule {latest} applies again and again, but must come to an end"
    raise PassError(message, "help: does it match what it makes?")


@cache
def _shape(rule: Rule) -> tuple[Any, bool]:
    """The kind of op that a rule takes, and whether it asks for the graph."""
    parameters = list(signature(rule).parameters)
    return get_type_hints(rule)[parameters[0]], len(parameters) > 1


def _try(rule: Rule, op: Op, graph: Graph, name: str) -> Mapping[Value, Value]:
    with at(op.loc, absolute=True):   # what a rule makes stands where its match stood
        answer = rule(op, graph) if _shape(rule)[1] else rule(op)
    if isinstance(answer, Skip):
        log.info("%s skipped %s at %s: %s", name, op.name, op.loc or "?", answer.reason)
        return {}
    found: Any = {op: answer} if isinstance(answer, Value) else {} if answer is None else answer
    if not isinstance(found, Mapping):
        want = "must return a value, a mapping from values to values, Skip(...) or None"
        raise PassError(f"{name}: rule {rule.__name__} returned {answer!r}, but {want}")
    if found:
        log.info("%s applied to %s at %s", name, op.name, op.loc or "?")
    return cast("Mapping[Value, Value]", found)
