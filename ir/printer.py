"""A graph as text: one line an op."""

from __future__ import annotations

from collections import Counter
from typing import Any

from trtc.ir.graph import Graph
from trtc.ir.op import Op, Result, Value
from trtc.ir.ops.leaves import Input

VERSION = 1


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
    taken: Counter[str] = Counter(i.key for i in graph.inputs)
    for op in graph.ops:
        if op not in names and not isinstance(op, Result):
            hint = "" if canonical else op.name
            for result in op.results:
                number = taken[hint]
                taken[hint] += 1
                names[result] = f"%{hint}_{number}" if hint else f"%{number}"
    return names


def _line(op: Op, names: dict[Value, str], canonical: bool) -> str:
    targets = ", ".join(names[r] for r in op.results)
    operands: list[str] = []
    for f in op.fields:
        value = getattr(op, f.name)
        if f.variadic:
            operands += [names[v] for v in value]
        elif f.optional and value is not None:
            operands.append(f"{f.name} = {names[value]}")
        elif f.is_operand and not f.optional:
            operands.append(names[value])
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
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
        return f'"{escaped}"'
    if isinstance(value, tuple):
        items: tuple[Any, ...] = value
        return f"[{', '.join(map(literal, items))}]"
    return repr(value) if isinstance(value, float) else str(value)
