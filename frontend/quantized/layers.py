"""Which layers are quantised, and how: by their names, or by patterns of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate
from typing import Any, cast

from trtc.frontend.config import Keys

WILD = "*?["   # of which a pattern has one at least


class Patterns:
    """Names of layers, some of them with wildcards as shells have them: ``transformer.layers.*.attention.qkv``."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._names, self._wild = dict[str, int](), list[tuple[int, re.Pattern[str]]]()
        for n, pattern in enumerate(patterns):
            if any(sign in pattern for sign in WILD):
                self._wild.append((n, re.compile(translate(pattern))))
            self._names.setdefault(pattern, n)

    def first(self, name: str) -> int | None:
        """The number of the first pattern that a layer's name matches; None where there is none."""
        found = self._names.get(name, -1)
        wild = next((n for n, pattern in self._wild if pattern.match(name)), -1)
        both = [n for n in (found, wild) if n >= 0]
        return min(both) if both else None

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.first(name) is not None


def names_of_layers(keys: Keys, key: str) -> tuple[str, ...]:
    """The names and patterns of layers under a key, such as ``exclude_modules``; none where it is absent."""
    value: Any = keys.values.get(key)
    names = cast("list[Any]", value) if isinstance(value, list) else []
    if (value is not None and not isinstance(value, list)) or not all(isinstance(name, str) for name in names):
        raise keys.wrong(key, cast("object", value), "a list of names or patterns of layers")
    return tuple(names)
