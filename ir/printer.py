"""A graph as text: one line an op."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any, cast

from trtc.ir.graph import Graph
from trtc.ir.op import Op, Result, Value
from trtc.ir.ops.leaves import Input

VERSION = 1
_ESCAPES = str.maketrans({"\\": r"\\", '"': r'\"', "\n": r"\n", "\t": r"\t", "\r": r"\r"})


def print_graph(graph: Graph, *, canonical: bool = False) -> str:
    """The text of a graph; ``canonical`` drops what is not meaning: locations and the hints in names."""
    names = _names(graph, canonical)
    arguments = ", ".join(f"{names[i]}: {i.type}" for i in graph.inputs)
    bounds = ", ".join(f"{n} in {lo}..{hi}" for n, (lo, hi) in sorted(graph.bounds.items()))
    lines = [f"trtc ir {VERSION}"] if not canonical else []
    lines.append(f"graph @{graph.name}({arguments})" + (f" where {bounds}" if bounds else "") + " {")
    lines += [_line(op, names, canonical) for op in graph.ops if not isinstance(op, Input | Result)]
    lines.append("  return " + ", ".join(f"{key} = {names[v]}" for key, v in graph.outputs.items()))
    return "\n".join([*lines, "}"])


def _names(graph: Graph, canonical: bool) -> dict[Value, str]:
    names: dict[Value, str] = {i: f"%{i.key}" for i in graph.inputs}
    taken, numbers = set(names.values()), dict[str, Iterator[int]]()
    for op in graph.ops:
        if op not in names and not isinstance(op, Result):
            stem = "%" if canonical else f"%{op.name}_"
            for result in op.results:
                free = (f"{stem}{n}" for n in numbers.setdefault(stem, count()))
                names[result] = next(name for name in free if name not in taken)   # an input may be named so
    return names


def _line(op: Op, names: dict[Value, str], canonical: bool) -> str:
    targets = ", ".join(names[r] for r in op.results)
    operands: list[str] = []
    for f in op.fields:
        value: Any = getattr(op, f.name)
        if f.variadic:
            operands += [names[v] for v in value]
        elif f.is_operand and value is not None:
            operands.append(f"{f.name} = {names[value]}" if f.optional else names[value])
    attributes = [
        f"{f.name} = {literal(value)}"
        for f in op.fields
        if not f.is_operand and f.name != "of" and (value := getattr(op, f.name)) != f.default
    ]
    text = f"  {targets} = {op.name}" + (f" {', '.join(operands)}" if operands else "")
    text += f" {{{', '.join(attributes)}}}" if attributes else ""
    text += f" : {', '.join(map(str, op.types))}"
    return text + (f"  loc({literal(op.loc)})" if op.loc and not canonical else "")


def literal(value: Any) -> str:
    """The text of an attribute: what the parser reads back as an equal value."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value.translate(_ESCAPES)}"'
    if isinstance(value, tuple):
        return f"[{', '.join(map(literal, cast('tuple[Any, ...]', value)))}]"
    return _number(float(value)) if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    """A float such that equal numbers have one text: a whole one as the integer that it is."""
    whole = value.is_integer() and abs(value) < 2**53 and str(value) != "-0.0"
    return str(int(value)) if whole else repr(value)
