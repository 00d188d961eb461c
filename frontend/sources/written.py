"""Files that lie nowhere yet: what a source makes of what its files say."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Written:
    """A file's name and content, made when it is opened.

    Args:
        name: without folders.
    """

    name: str
    make: Callable[[], str]

    def open(self, _: str = "rb") -> io.BytesIO:
        return io.BytesIO(self.make().encode(errors="replace"))
