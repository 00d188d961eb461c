"""A symbolic size, made a number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from trtc.ir.errors import IRError
from trtc.ir.graph import Graph
from trtc.ir.op import Op, Value
from trtc.ir.ops import Input
from trtc.ir.types import Dim, Size, TensorType, substitute
from trtc.passes.base import Pass


class Specialize(Pass, name="specialize"):
    """Give one symbolic size a value, in every type and attribute; a graph without that size stays as it is.

    Options:
        size: its name, such as M.
        value: the number, within the size's bounds.
    """

    size: str
    value: int

    def run(self, graph: Graph) -> Graph:
        if self.size not in graph.bounds:
            return graph
        least, most = graph.bounds[self.size]
        if not least <= self.value <= most:
            raise IRError(f"size {self.size} cannot be {self.value}, but must be in {least}..{most}")
        new: dict[Value, Value] = {}
        for op in graph.ops:
            if op not in new:
                made = self._made(op, new)
                new.update(zip(op.results, made.results, strict=True))
        inputs = tuple(i for key in graph.inputs if isinstance(i := new[key], Input))
        bounds = {name: pair for name, pair in graph.bounds.items() if name != self.size}
        return replace(graph, inputs=inputs, outputs={k: new[v] for k, v in graph.outputs.items()}, bounds=bounds)

    def _made(self, op: Op, new: dict[Value, Value]) -> Op:
        return rebuilt(op, new, {self.size: self.value})


def rebuilt(op: Op, new: Mapping[Value, Value], values: Mapping[str, Size]) -> Op:
    """An op on other operands, and with other sizes for some names in its types and attributes."""
    fields = {name: substituted(value, values) for name, value in op.attributes.items()}
    for f in op.fields:
        if f.is_operand and (old := getattr(op, f.name)) is not None:
            fields[f.name] = _each(old, new) if f.variadic else new[old]
    same = all(getattr(op, name) is value for name, value in fields.items())
    return op if same else type(op)(**fields, loc=op.loc, source=op.source)


def _each(old: tuple[Value, ...], new: Mapping[Value, Value]) -> tuple[Value, ...]:
    """The new values; the very same object where they are the old ones."""
    found = tuple(new[v] for v in old)
    return old if all(a is b for a, b in zip(old, found, strict=True)) else found


def substituted(attribute: Any, values: Mapping[str, Size]) -> Any:
    """The attribute with other sizes for some names; the very same object where they do not occur."""
    if isinstance(attribute, Dim):
        known = substitute(attribute, values)
        return attribute if known == attribute else known
    if isinstance(attribute, TensorType):
        shape = substituted(attribute.shape, values)
        return attribute if shape is attribute.shape else TensorType(attribute.dtype, shape)
    if isinstance(attribute, tuple):
        each = cast("tuple[Any, ...]", attribute)
        known = tuple(substituted(part, values) for part in each)
        return each if all(a is b for a, b in zip(each, known, strict=True)) else known
    return attribute
