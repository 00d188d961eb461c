"""``trtc targets``: what engines can be built for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trtc.cli._table import table
from trtc.errors import TrtcError

Name = Annotated[str, typer.Argument(metavar="[NAME[:VERSION]]", help="Show all about this one.")]
Explain = Annotated[str, typer.Option(metavar="OP", help="Say who takes an op natively, and why others do not.")]
Write = Annotated[Path | None, typer.Option(hidden=True, help="Write docs/targets.md anew.")]


def targets(name: Name = "", explain: Explain = "", write: Write = None) -> None:
    """List the targets, and whether they build and run here; or show one, or what they do with an op."""
    from trtc.backend.targets import target

    if write:
        _write(write)
    elif explain:
        print(_explained(explain, name))
    elif name:
        from trtc.backend.explain import page

        print(page(target(name)))
    else:
        from trtc.cli._support import support

        rows = [(s.name, target(s.name).version, s.builds, s.runs, target(s.name).summary) for s in support()[0]]
        print(table([("target", "version", "builds here", "runs here", ""), *rows]))


def _explained(op: str, name: str) -> str:
    """What each target and version does with an op; or the one that is named."""
    from trtc.backend.explain import answer, explained
    from trtc.backend.targets import TARGETS, target
    from trtc.ir.errors import nearest
    from trtc.ir.op import OPS

    if op not in OPS:
        raise TrtcError(f"unknown op `{op}`", *nearest(op, OPS))
    if name:
        return table([(str(target(name)), answer(target(name), OPS[op]))])
    return table(explained(OPS[op], sorted(TARGETS)))


def _write(file: Path) -> None:
    from trtc.backend.targets_document import document, kept

    before = file.read_text(encoding="utf-8") if file.exists() else ""
    file.write_text(document(kept(before)), encoding="utf-8")
