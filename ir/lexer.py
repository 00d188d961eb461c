"""The tokens of the textual form."""

from __future__ import annotations

import re
from typing import NamedTuple

from trtc.ir.errors import ParseError, Source

_TOKEN = re.compile(
    r"(?P<skip>\s+|//[^\n]*)"
    r'|(?P<string>"(?:[^"\\\n]|\\.)*")'
    r"|(?P<number>-?(?:inf|nan)\b|-?\d+(?:\.(?!\.)\d*)?(?:e[+-]?\d+)?)"
    r"|(?P<name>[%@][\w.]*\w)"
    r"|(?P<word>[A-Za-z_]\w*(?:\.\w+)*)"
    r"|(?P<mark>\.\.|[\[\](){}:,=+*-])"
)


class Token(NamedTuple):
    kind: str
    text: str
    source: Source


def tokens(text: str, file: str) -> list[Token]:
    """The tokens of a text, then one of kind "end"; a ``ParseError`` at a character that starts none."""
    found: list[Token] = []
    at = 0
    for match in _TOKEN.finditer(text):
        start, end = match.span()
        if start > at:
            break
        at = end
        if (kind := match.lastgroup or "") != "skip":
            found.append(Token(kind, match.group(), Source(file, text, start, end)))
    if at < len(text):
        raise ParseError(f"unexpected character {text[at]!r}", source=Source(file, text, at, at + 1))
    end = len(text.rstrip())   # trailing space is no place to point at
    return [*found, Token("end", "end of text", Source(file, text, end, end + 1))]


def is_token(text: str, kind: str) -> bool:
    """Whether a whole text is one token of a kind: whether it can stand where the parser wants one."""
    try:
        return [(t.kind, t.text) for t in tokens(text, "")][:-1] == [(kind, text)]
    except ParseError:
        return False
