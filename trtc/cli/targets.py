"""``trtc targets``: what engines can be built for."""

from __future__ import annotations

from trtc.cli._table import table


def targets() -> None:
    """List the targets, and whether they build and run here."""
    from trtc.backend.targets import target
    from trtc.cli._support import support

    rows = [(s.name, target(s.name).version, s.builds, s.runs, target(s.name).summary) for s in support()[0]]
    print(table([("target", "version", "builds here", "runs here", ""), *rows]))
