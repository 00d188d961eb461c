"""``trtc ops``: the operations of the IR."""

from __future__ import annotations

from dataclasses import MISSING
from importlib import import_module
from inspect import getdoc
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trtc.cli import _options as options
from trtc.cli._table import first_line, table
from trtc.errors import TrtcError

if TYPE_CHECKING:
    from trtc.ir.op import Field, Op

Name = Annotated[str, typer.Argument(metavar="[NAME]", help="Show all about this one.")]


def ops(name: Name = "", load: options.Load = None) -> None:
    """List the ops, or show one: what it means, its operands and attributes."""
    from trtc.ir.errors import nearest
    from trtc.ir.op import OPS, Result
    from trtc.plugins import load_all

    import_module("trtc.backend.targets")   # the targets' own ops
    load_all(load)
    known = {n: kind for n, kind in sorted(OPS.items()) if kind is not Result}
    if not name:
        print(table((n, first_line(kind)) for n, kind in known.items()))
    elif name in known:
        print(_page(known[name]))
    else:
        raise TrtcError(f"unknown op `{name}`", *nearest(name, known))


def _page(kind: type[Op]) -> str:
    from trtc.ir.op import Op
    from trtc.ir.ops import Constant, Input, Weight
    from trtc.ir.target import TARGETS

    takers = [
        name
        for name, record in ((name, make("").native) for name, make in TARGETS.items())
        if kind in (Constant, Input, Weight)
        or (kind in record and not (record[kind].__doc__ or "").startswith("never:"))
    ]
    facts = [
        ("text", _signature(kind)),
        ("decomposes", "no, it is a primitive" if kind.decompose is Op.decompose else "into simpler ops"),
        ("native to", ", ".join(takers) or "no target"),
    ]
    return f"{kind.name}\n\n{getdoc(kind)}\n\n{table(facts)}"


def _signature(kind: type[Op]) -> str:
    """How the op is written in the text form, with the types and defaults of its attributes."""
    operands = [_operand(f) for f in kind.fields if f.is_operand]
    attributes = [f"{f.name}: {_type(f.hint)}{_default(f)}" for f in kind.fields if not f.is_operand]
    return f"{kind.name} {', '.join(operands)}".rstrip() + (f" {{{', '.join(attributes)}}}" if attributes else "")


def _operand(f: Field) -> str:
    if f.optional:
        return f"[{f.name} = %{f.name}]"
    return f"%{f.name}, ..." if f.variadic else f"%{f.name}"


def _type(hint: Any) -> str:
    """A type as one writes it in Python, without the modules."""
    text = str(hint) if getattr(hint, "__args__", ()) else hint.__name__
    return text.replace("trtc.ir.types.", "").replace("int | Dim", "Size")


def _default(f: Field) -> str:
    from trtc.ir.printer import literal

    return "" if f.default is MISSING else f" = {literal(f.default)}"
