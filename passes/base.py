"""Passes: functions from graphs to graphs, with options, by name."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, ClassVar

from typing_extensions import dataclass_transform

from trtc.ir.graph import Graph

PASSES: dict[str, type[Pass]] = {}


@dataclass_transform(frozen_default=True)
@dataclass(frozen=True)
class Pass:
    """A function from graphs to graphs, with options.

    A subclass states its options as fields; ``name{option=value}`` sets them in a pipeline.
    """

    name: ClassVar[str] = ""

    def __init_subclass__(cls, *, name: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclass(frozen=True)(cls)
        if name:
            if not re.fullmatch(r"[\w-]+", name):
                raise TypeError(f"pass name {name!r} must be letters, digits and hyphens: verb-noun")
            if name in PASSES:
                raise TypeError(f"pass name {name!r} is taken by {PASSES[name].__qualname__}")
            cls.name, PASSES[name] = name, cls

    def run(self, graph: Graph) -> Graph:
        raise NotImplementedError(f"{type(self).__name__} does not say what it does")

    def __str__(self) -> str:
        options = [
            f"{f.name.replace('_', '-')}={str(value).lower() if isinstance(value, bool) else value}"
            for f in dataclasses.fields(self)
            if (value := getattr(self, f.name)) != f.default
        ]
        return self.name + (f"{{{' '.join(options)}}}" if options else "")
