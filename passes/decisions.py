"""Decision tables: values whose every element is one of a few numbers, chosen by conditions."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from trtc.ir.graph import Graph
from trtc.ir.op import Op, Value
from trtc.ir.ops import (
    Add,
    And,
    Broadcast,
    Cast,
    Constant,
    Gather,
    Less,
    LessEqual,
    Maximum,
    Minimum,
    Mul,
    Reshape,
    Slice,
    Sub,
    Transpose,
    Where,
)  # fmt: skip
from trtc.ir.types import DType, Size, bool_

MOST = 6   # conditions of one table
Decide = Callable[..., Any]


def _where(condition: Any, a: Any, b: Any) -> Any:
    return a if condition else b


def _and(a: Any, b: Any) -> bool:
    return a and b


FORMULAS: dict[type[Op], Decide] = {
    Add: operator.add, Sub: operator.sub, Mul: operator.mul, Maximum: max, Minimum: min, Less: operator.lt,
    LessEqual: operator.le, And: _and, Where: _where,
}   # fmt: skip


@dataclass(frozen=True)
class Table:
    """What a value is for each choice of some conditions.

    Args:
        atoms: conditions, bool, each of which broadcasts to the value.
        cells: a number for each choice: the first is for all false, the second for the last true alone, and so on.
    """

    atoms: tuple[Value, ...]
    cells: tuple[Any, ...]

    def of(self, chosen: Mapping[Value, bool]) -> Any:
        """The number where the atoms are these."""
        at = 0
        for atom in self.atoms:
            at = 2 * at + chosen[atom]
        return self.cells[at]


def choices(atoms: Sequence[Value]) -> list[dict[Value, bool]]:
    """Every choice of some conditions, in the order of a table's cells."""
    return [dict(zip(atoms, row, strict=True)) for row in product((False, True), repeat=len(atoms))]


def tables(graph: Graph) -> dict[Value, Table]:
    """The values of a graph that have a table; every bool has one, at least of itself."""
    found: dict[Value, Table] = {}
    for op in graph.ops:
        table = _table(op, found)
        if table is None and op.dtype == bool_ and len(op.types) == 1:
            table = Table((op,), (False, True))
        if table is not None:
            found[op] = table
    return found


def _table(op: Op, known: Mapping[Value, Table]) -> Table | None:
    if isinstance(op, Constant) and len(op.values) == 1:
        return Table((), (_rounded(op.values[0], op.dtype),))
    parts = [known.get(v) for v in op.operands.values()]
    if isinstance(op, Gather):
        parts = parts[:1]
    if not parts or not all(parts):
        return None
    each = [p for p in parts if p]
    match op:
        case Cast(_, to):
            return Table(each[0].atoms, tuple(_rounded(cell, to) for cell in each[0].cells))
        case Reshape() | Broadcast() | Transpose() | Slice() | Gather():
            return Table(tuple(_moved(atom, op) for atom in each[0].atoms), each[0].cells)
        case _ if type(op) in FORMULAS:
            return _combined(FORMULAS[type(op)], each, op.dtype)
        case _:
            return None


def _combined(formula: Decide, parts: Sequence[Table], dtype: DType) -> Table | None:
    atoms = tuple(dict.fromkeys(atom for part in parts for atom in part.atoms))
    if len(atoms) > MOST:
        return None
    with np.errstate(all="ignore"):
        cells = (formula(*(part.of(chosen) for part in parts)) for chosen in choices(atoms))
        return Table(atoms, tuple(_rounded(cell, dtype) for cell in cells))


def _rounded(number: Any, dtype: DType) -> Any:
    """A number in an element type, which does arithmetic in it."""
    if dtype == bool_:
        return bool(number)
    return dtype.numpy.type(number) if dtype.is_float else int(number)


def _moved(atom: Value, op: Reshape | Broadcast | Transpose | Slice | Gather) -> Value:
    """The condition that broadcasts to what an op makes as this one does to its operand."""
    own: tuple[Size, ...] = (1,) * (op.x.type.rank - atom.type.rank) + atom.shape
    padded = atom if atom.shape == own else Reshape(atom, own)
    match op:
        case Broadcast():
            return atom
        case Transpose(_, axes):
            return Transpose(padded, axes)
        case Slice(_, axis, start, size):
            return atom if own[axis] == 1 else Slice(padded, axis, start, size)
        case Gather(_, indices, axis, batch):
            if own[axis] == 1 and not batch:
                return Reshape(padded, (*own[:axis], *(1,) * indices.type.rank, *own[axis + 1 :]))
            return Gather(padded if batch == 0 else Broadcast(padded, op.x.shape), indices, axis, batch)
        case Reshape(x, sizes):
            return _reshaped(padded, own, x.shape, sizes)


def _reshaped(padded: Value, own: tuple[Size, ...], before: tuple[Size, ...], after: tuple[Size, ...]) -> Value:
    """Where a reshape only adds and drops axes of size 1, the condition keeps its own sizes."""
    if [s for s in before if s != 1] != [s for s in after if s != 1]:
        return Reshape(padded if own == before else Broadcast(padded, before), after)
    left = iter(size for size, whole in zip(own, before, strict=True) if whole != 1)
    sizes = tuple(1 if whole == 1 else next(left) for whole in after)
    return padded if padded.shape == sizes else Reshape(padded, sizes)
