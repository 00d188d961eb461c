"""Graphs: immutable, so that an analysis of one never goes stale."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np

from trtc.ir.errors import IRError
from trtc.ir.lexer import is_token
from trtc.ir.op import Array, Op, Result, Value, binding
from trtc.ir.ops.leaves import Input, Weight
from trtc.ir.types import Bounds, names, solve


@dataclass(frozen=True, eq=False, repr=False)
class Graph:
    """A named function from inputs (and weights) to outputs.

    Args:
        outputs: the results by name. One that is named as an input aliases it: where the target can, both are one
            buffer, updated in place (KV caches).
        bounds: for each symbolic size, the (least, greatest) value it takes at run time.
    """

    name: str
    inputs: tuple[Input, ...]
    outputs: Mapping[str, Value]
    bounds: Bounds

    @cached_property
    def ops(self) -> tuple[Op, ...]:
        """Every op that an output needs, operands first; inputs lead."""
        return ordered(self.outputs.values(), self.inputs)

    @cached_property
    def users(self) -> Mapping[Value, tuple[Op, ...]]:
        """For each value, the ops that read it, in order; an op that reads it twice stands there twice."""
        users: dict[Value, list[Op]] = {op: [] for op in self.ops}
        for op in self.ops:
            for value in op.operands.values():
                users[value].append(op)
        return {value: tuple(ops) for value, ops in users.items()}

    @cached_property
    def constants(self) -> frozenset[Value]:
        """The values that depend on weights and literals alone, whose sizes are all known."""
        found: set[Value] = set()
        for op in self.ops:
            known = all(t.static for t in op.types) and all(v in found for v in op.operands.values())
            if known and not isinstance(op, Input):
                found.add(op)
        return frozenset(found)

    def is_constant(self, value: Value) -> bool:
        return value in self.constants

    @property
    def aliases(self) -> Mapping[str, Input]:
        """For each output that is named as an input, that input."""
        by_key = {i.key: i for i in self.inputs}
        return {name: by_key[name] for name in self.outputs if name in by_key}

    def replace(self, new: Mapping[Value, Value]) -> Graph:
        """This graph with some values replaced, everywhere at once, by equal ones.

        A replacement may be built of the value it replaces (``x -> cast(x)``): inside it, the old value is meant.
        """
        for old, value in new.items():
            if value.type != old.type:
                name, source = (old.name, old.source) if isinstance(old, Op) else ("value", None)
                raise IRError(
                    f"{name} is {old.type}, so a value of type {value.type} cannot stand for it", source=source
                )
        rebuilder = _Rebuilder(new)
        return replace(self, outputs={k: rebuilder.value(v) for k, v in self.outputs.items()})

    def verify(self) -> None:
        """Raise an ``IRError`` unless the graph is closed: inputs and sizes declared, aliases of one type."""
        self._verify_names()
        for key, count in Counter(i.key for i in self.inputs).items():
            if count > 1:
                raise IRError(f"@{self.name} has {count} inputs named {key}")
        for op in self.ops:
            if isinstance(op, Input) and op not in self.inputs:
                raise IRError(f"%{op.key} is read but is not an input of @{self.name}", source=op.source)
            for size in sorted(set[str]().union(*(names(t.shape) for t in op.types)) - set(self.bounds)):
                note = f"help: add `{size} in 1..N` to @{self.name}"
                raise IRError(f"size {size} has no bounds", note, source=op.source)
        for name, source in self.aliases.items():
            if self.outputs[name].type != source.type:
                raise IRError(f"output {name} is {self.outputs[name].type}, but the input it updates is {source.type}")

    def _verify_names(self) -> None:
        names = [("%", i.key, "name") for i in self.inputs] + [("@", self.name, "name")]
        words = [("output ", key, "word") for key in self.outputs] + [("size ", key, "word") for key in self.bounds]
        for what, key, kind in names + words:
            if not is_token(f"%{key}" if kind == "name" else key, kind):
                raise IRError(f"{what}{key} cannot be written, but names must be letters, digits, `_` and inner dots")

    def evaluate(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs for these inputs and weights, by key, in NumPy: the graph's meaning."""
        values = dict(self.steps(tensors))
        return {name: values[v] for name, v in self.outputs.items()}

    def steps(self, tensors: Mapping[str, Array]) -> Iterator[tuple[Value, Array]]:
        """Each value with its array, in order: what ``evaluate`` goes through."""
        sizes = solve((i.shape, np.shape(tensors[i.key])) for i in self.inputs)
        steps = run(self.ops, {op: tensors[op.key] for op in self.ops if isinstance(op, Input | Weight)})
        for _ in self.ops:
            with binding(sizes):   # only while this graph's own ops run, not while the caller looks at what they made
                step = next(steps)
            yield step

    def text(self, *, canonical: bool = False) -> str:
        """The graph as text; ``canonical`` leaves out what is not meaning: the names of values, locations."""
        printer: Any = import_module("trtc.ir.printer")   # which imports this module
        return printer.print_graph(self, canonical=canonical)

    def __str__(self) -> str:
        return self.text()

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        """Equal up to the names of values and the locations of ops."""
        return isinstance(other, Graph) and self.text(canonical=True) == other.text(canonical=True)

    def __hash__(self) -> int:
        return hash((self.name, tuple(i.key for i in self.inputs), tuple(self.outputs)))


def ordered(outputs: Iterable[Value], first: Iterable[Value] = ()) -> tuple[Op, ...]:
    """Every op that the outputs need, operands first; ``first`` leads, and what it is made of is left out."""
    order: dict[Value, None] = dict.fromkeys(first)
    stack: list[tuple[Value, bool]] = [(v, False) for v in reversed(list(outputs))]
    while stack:
        value, ready = stack.pop()
        if value in order:
            continue
        assert isinstance(value, Op)
        if ready:
            order[value] = None
        else:
            stack.append((value, True))
            stack.extend((v, False) for v in reversed(list(value.operands.values())))
    return tuple(op for op in order if isinstance(op, Op))


def run(ops: Iterable[Op], known: Mapping[Value, Array]) -> Iterator[tuple[Value, Array]]:
    """Each op with its array, in order, ``known`` ones as they are; sizes must be bound."""
    values = dict(known)
    several: dict[Value, tuple[Array, ...]] = {}
    for op in ops:
        if isinstance(op, Result) and op not in values:
            values[op] = several[op.of][op.index]
        elif op not in values:
            with np.errstate(all="ignore"):
                result: Any = op.evaluate(*op.arguments(values))
            several[op] = result if isinstance(result, tuple) else (result,)
            values[op] = several[op][0]
        yield op, values[op]


class _Rebuilder:
    """Builds values anew after a replacement, each once, without recursion (graphs are deep)."""

    def __init__(self, new: Mapping[Value, Value]) -> None:
        self.new = new
        self.done: dict[Value, Value] = {}   # what each old value has become
        self.raw: dict[Op, Op] = {}          # each op on its new operands, itself not replaced

    def value(self, root: Value) -> Value:
        stack, opened = [root], set[Value]()   # opened: its replacement is under way, and may read the value itself
        while stack:
            top = stack[-1]
            target = self.new.get(top, top)
            if top in opened and target in self.done:
                self.done[top] = self.done[target]
                opened.remove(top)
                stack.pop()
            elif top in self.done:
                stack.pop()
            elif target is not top and top not in opened:
                opened.add(top)
                stack.append(target)
            elif waiting := [v for v in self._needs(top) if v not in self.done]:
                stack.extend(waiting)
            else:
                self.done[top] = self._rebuild(top)
                stack.pop()
        return self.done[root]

    def _needs(self, value: Value) -> list[Value]:
        assert isinstance(value, Op)
        owner = value.of if isinstance(value, Result) else value
        assert isinstance(owner, Op)
        return list(owner.operands.values())

    def _rebuild(self, value: Value) -> Value:
        assert isinstance(value, Op)
        if isinstance(value, Result):
            assert isinstance(value.of, Op)
            return self._on_new_operands(value.of).results[value.index]
        return self._on_new_operands(value)

    def _on_new_operands(self, op: Op) -> Op:
        if op not in self.raw:
            self.raw[op] = op.with_operands(self.done)
        return self.raw[op]
