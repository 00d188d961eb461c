"""``trtc passes``: the passes and presets there are."""

from __future__ import annotations

from dataclasses import MISSING, fields
from importlib import import_module
from inspect import getdoc
from typing import TYPE_CHECKING, Annotated, get_type_hints

import typer

from trtc.cli import _options as options
from trtc.cli._table import first_line, table
from trtc.errors import TrtcError

if TYPE_CHECKING:
    from trtc.passes import Pass
    from trtc.passes.presets import Preset

Name = Annotated[str, typer.Argument(metavar="[NAME]", help="Show all about this one.")]


def passes(name: Name = "", load: options.Load = None) -> None:
    """List the passes and presets, or show one."""
    from trtc.ir.errors import nearest
    from trtc.passes import PASSES, PRESETS
    from trtc.plugins import load_all

    import_module("trtc.backend.targets")   # the targets' own passes
    load_all(load)
    if not name:
        print(_list())
    elif name in PRESETS:
        print(f"{_preset(PRESETS[name])}\n\n{PRESETS[name].help}\n\n  {PRESETS[name].body}")
    elif name in PASSES:
        print(_page(PASSES[name]))
    else:
        raise TrtcError(f"unknown pass `{name}`", *nearest(name, [*PASSES, *PRESETS]))


def _list() -> str:
    from trtc.passes import PASSES, PRESETS

    rows = [(name, first_line(kind)) for name, kind in sorted(PASSES.items())]
    presets = [(_preset(preset), preset.help) for preset in PRESETS.values()]
    return f"passes\n{table(rows, '  ')}\n\npresets\n{table(presets, '  ')}"


def _preset(preset: Preset) -> str:
    return preset.name + (f"{{{' '.join(f'{o}=...' for o in preset.options)}}}" if preset.options else "")


def _page(kind: type[Pass]) -> str:
    hints = get_type_hints(kind)
    options = [
        f"{f.name.replace('_', '-')}: {hints[f.name].__name__}" + ("" if f.default is MISSING else f" = {f.default!r}")
        for f in fields(kind)
    ]
    return f"{kind.name}{{{', '.join(options)}}}\n\n{getdoc(kind)}" if options else f"{kind.name}\n\n{getdoc(kind)}"
