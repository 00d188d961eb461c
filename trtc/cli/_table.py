"""Plain text in columns: what a terminal, a pipe and a file show alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(rows: Iterable[Sequence[object]], indent: str = "") -> str:
    """Rows with their columns below one another; numbers keep to the right and get commas, the last column runs free.

    >>> print(table([("op", "count"), ("linear", 29), ("rms_norm", 1500)]))
    op        count
    linear       29
    rms_norm  1,500
    """
    columns = list(zip(*rows, strict=True))
    right = [any(isinstance(c, int) for c in column) for column in columns]
    texts = [[f"{c:,}" if isinstance(c, int) else str(c) for c in column] for column in columns]
    widths = [max(map(len, column)) for column in texts]
    lines = (
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in zip(*texts, strict=True)
    )
    return "\n".join(indent + line for line in lines)


def amount(size: int) -> str:
    """Bytes as people read them: 512 B, 2.9 MB."""
    for unit, step in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= step:
            return f"{size / step:.1f} {unit}"
    return f"{size} B"


def first_line(thing: object) -> str:
    """The first sentence of a docstring."""
    return (thing.__doc__ or "").strip().partition("\n")[0]
