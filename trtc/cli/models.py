"""``trtc models``: the model families that can be compiled."""

from __future__ import annotations

from trtc.cli._table import table


def models() -> None:
    """List the model families that can be compiled."""
    from trtc.frontend import FAMILIES

    rows = [(architecture, family.name, family.features) for architecture, family in sorted(FAMILIES.items())]
    print(table([("architecture", "family", "with"), *rows]))
