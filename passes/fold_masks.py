"""Masks that exporters compute with numbers, as conditions."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

from trtc.ir.graph import Graph
from trtc.ir.op import Op, Value, at
from trtc.ir.ops import Add, And, Broadcast, Cast, Constant, Less, LessEqual, Reshape, Where, scalar
from trtc.ir.types import Bounds, Size, i32, interval
from trtc.passes.affine import Scores, Sum, conditions, excess, number, plus
from trtc.passes.base import Pass
from trtc.passes.decisions import Table, choices, tables
from trtc.passes.fuse_attention import HIDDEN

log = logging.getLogger("trtc.rewrite")


class FoldMasks(Pass, name="fold-masks"):
    """scores + mask  ->  where(visible, scores, hidden), where each element of the mask is 0 or a large negative number

    Exporters make masks by arithmetic: a triangle of the least float times the positions beyond each token, plus the
    padding, compared with 0, and so on. What decides are a few comparisons; `visible` is the conjunction of those that
    are needed. What one comparison says of another is read off the positions they compare, within the sizes' bounds.
    A score that is hidden by adding is small beside the number added, so it becomes the number, where every token is
    seen to see a key: one that sees none keeps its scores.
    """

    def run(self, graph: Graph) -> Graph:
        found = tables(graph)
        new: dict[Value, Value] = {}
        for op in graph.ops:
            with at(op.loc, absolute=True):
                made = _folded(op, found, graph.bounds)
            if isinstance(made, str):
                log.info("%s skipped %s at %s: %s", self.name, op.name, op.loc or "?", made)
            elif made:
                log.info("%s applied to %s at %s", self.name, op.name, op.loc or "?")
                new[op] = made
        return graph.replace(new)


def _folded(op: Op, known: Mapping[Value, Table], bounds: Bounds) -> Value | str | None:
    """What stands for an op; or why nothing does, where its mask is one."""
    if op.type.rank < 2 or not op.dtype.is_float:
        return None
    match op:
        case Add(a, b):
            for x, mask in ((a, b), (b, a)):
                if mask in known and x not in known and x.shape == op.shape:
                    return _added(op, x, known[mask], bounds)
            return None
        case Where(condition, x, Constant() as b) if x not in known and x.shape == op.shape:
            if max(b.values) > HIDDEN or _is_plain(condition, known):
                return None
            conjunction = _conjunction(known[condition], op.shape, bounds)
            return conjunction if isinstance(conjunction, str) else _chosen(conjunction, x, b)
        case _:
            return None


def _added(op: Op, x: Value, table: Table, bounds: Bounds) -> Value | str | None:
    """x + 0 is x; x + a large negative number is that number."""
    hidden = {float(cell) for cell in table.cells if cell}
    if not all(number <= HIDDEN for number in hidden):   # nor is it NaN
        return None
    if not hidden:
        return x
    kept = _conjunction(Table(table.atoms, tuple(cell == 0 for cell in table.cells)), op.shape, bounds)
    if isinstance(kept, str):
        return kept
    if max(hidden) > -math.inf and not _always_sees(kept, op.shape, bounds):
        return f"a token that sees no key needs the scores that {max(hidden):g} was added to"
    return _chosen(kept, x, scalar(max(hidden), op.dtype))


def _chosen(literals: list[_Literal], x: Value, hidden: Value) -> Value:
    visible: Value | None = None
    for literal in literals:
        visible = And(visible, literal.value()) if visible else literal.value()
    return Where(visible, x, hidden) if visible else x


def _is_plain(condition: Value, known: Mapping[Value, Table]) -> bool:
    """Whether a condition is a conjunction of comparisons already."""
    rank = condition.type.rank
    return all(known[one].atoms == (one,) for one, _ in conditions(condition, tuple(range(rank))))


@dataclass(frozen=True)
class _Literal:
    """A condition or its opposite, and the sum that is at least 0 exactly where it holds, if it compares positions."""

    atom: Value
    holds: bool
    sum: Sum | None

    def value(self) -> Value:
        return self.atom if self.holds else _opposite(self.atom)


def _opposite(condition: Value) -> Value:
    match condition:
        case Reshape(x) | Broadcast(x):
            return condition.with_operands({x: _opposite(x)})
        case Less(a, b) if a.dtype == i32:
            return LessEqual(b, a)
        case LessEqual(a, b) if a.dtype == i32:
            return Less(b, a)
        case _:
            return Less(Cast(condition, i32), scalar(1, i32))


def _conjunction(table: Table, shape: tuple[Size, ...], bounds: Bounds) -> list[_Literal] | str:
    """The conditions that all hold exactly where the table is true; none for always.

    Args:
        shape: of the scores.
    """
    scores = _scores(shape)
    literals = [literal for atom in table.atoms for literal in _literals(atom, scores)]
    always = [x for x in literals if x.sum is not None and _holds(x.sum, scores, bounds)]
    follows = [
        (a, b) for a in literals for b in literals
        if a.atom is not b.atom and a.sum is not None and b.sum is not None
        and _holds(plus(b.sum, a.sum, -1), scores, bounds)
    ]   # fmt: skip

    def can_be(chosen: Mapping[Value, bool]) -> bool:
        def true(x: _Literal) -> bool:
            return chosen[x.atom] is x.holds

        return all(map(true, always)) and all(true(b) for a, b in follows if true(a))

    rows = [chosen for chosen in choices(table.atoms) if can_be(chosen)]
    seen = [chosen for chosen in rows if table.of(chosen)]
    if not seen:
        return "its mask hides everything"

    def says(kept: list[_Literal]) -> bool:
        return all(bool(table.of(c)) == all(c[x.atom] is x.holds for x in kept) for c in rows)

    kept = [x for x in literals if all(c[x.atom] is x.holds for c in seen)]
    if not says(kept):
        return "its mask is no conjunction of comparisons"
    for literal in list(kept):
        if says(fewer := [x for x in kept if x is not literal]):
            kept = fewer
    return kept


def _scores(shape: tuple[Size, ...]) -> Scores:
    *ahead, tokens, keys = shape
    return Scores(len(shape), ahead[0] if ahead else 1, tokens, keys)


def _always_sees(literals: list[_Literal], shape: tuple[Size, ...], bounds: Bounds) -> bool:
    """Whether every token sees the first key, or every one itself, the keys ending with the tokens' own."""
    scores = _scores(shape)
    before = plus(number(scores.keys), number(scores.tokens), -1)

    def at_key(sum: Sum, key: Sum) -> Sum:
        factor = sum.get("key", 0)
        assert isinstance(factor, int)
        return plus({name: n for name, n in sum.items() if name != "key"}, key, factor)

    seen: list[Sum] = [{}, plus({"token": 1}, before)] if _holds(before, scores, bounds) else [{}]
    return any(all(x.sum is not None and _holds(at_key(x.sum, key), scores, bounds) for x in literals) for key in seen)


def _literals(atom: Value, scores: Scores) -> tuple[_Literal, _Literal]:
    (compared, axes), *_ = conditions(atom, scores.axes(atom))
    holds = excess(compared, axes, scores)
    fails = None if holds is None else plus(number(-1), holds, -1)
    return _Literal(atom, True, holds), _Literal(atom, False, fails)


def _holds(sum: Sum, scores: Scores, bounds: Bounds) -> bool:
    """Whether a sum is at least 0 wherever a score is."""
    least: Size = sum.get("number", 0)
    for name, factor in sum.items():
        if isinstance(name, Value) or (name != "number" and not isinstance(factor, int)):
            return False
        if name in ("key", "token") and isinstance(factor, int) and factor < 0:
            least = least + factor * ((scores.keys if name == "key" else scores.tokens) - 1)
    return interval(least, bounds)[0] >= 0
