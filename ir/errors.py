"""The errors of the compiler: what went wrong, where, and what to try."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import NamedTuple

from trtc.errors import TrtcError


class Source(NamedTuple):
    """A span of a text: where an operation or an option was written."""

    file: str
    text: str
    start: int
    end: int

    def show(self) -> str:
        """Return ``file:line:column`` and the line with the span underlined."""
        line = self.text.count("\n", 0, self.start) + 1
        begin = self.text.rfind("\n", 0, self.start) + 1
        stop = self.text.find("\n", self.start)
        code = self.text[begin : len(self.text) if stop < 0 else stop]
        column = self.start - begin + 1
        gutter = " " * len(str(line))
        marks = "^" * max(1, min(self.end, begin + len(code)) - self.start)
        return (
            f"{gutter}--> {self.file}:{line}:{column}\n"
            f"{gutter} |\n{line} | {code}\n{gutter} | {' ' * (column - 1)}{marks}"
        )


class IRError(TrtcError):
    """An operation or a graph breaks a rule of the IR.

    Args:
        message: what is wrong, lower case, no full stop, with the offending types.
        notes: facts that help, one line each (operand types, then a ``help:`` line).
        source: where it was written, if it came from a text.
    """

    def __init__(self, message: str, *notes: str, source: Source | None = None) -> None:
        super().__init__(message, *notes)
        self.source = source

    def __str__(self) -> str:
        where = [self.source.show()] if self.source else []
        return "\n".join([f"error: {self.message}", *where, *(f"  = {note}" for note in self.facts)])


class ParseError(IRError):
    """A text is not a graph, or not a pipeline."""


class PassError(TrtcError):
    """A pass failed, or left a graph that does not verify."""


def nearest(word: str, known: Iterable[str]) -> list[str]:
    """A ``help:`` note with the known word that is nearest, if one is near."""
    near = get_close_matches(word, list(known), n=1)
    return [f"help: did you mean `{near[0]}`?"] if near else []
