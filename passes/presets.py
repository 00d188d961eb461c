"""Presets: pipelines that have a name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trtc.ir.errors import ParseError, Source


@dataclass(frozen=True)
class Preset:
    """A pipeline with a name and a first line of help; ``$option`` in its text stands for what is given."""

    name: str
    help: str
    body: str
    options: tuple[str, ...] = ()

    def text(self, given: Mapping[str, str], where: Source) -> str:
        """The text with its options filled in."""
        if set(given) != set(self.options):
            want = "{" + " ".join(f"{o}=..." for o in self.options) + "}" if self.options else "no options"
            raise ParseError(f"preset `{self.name}` takes {want}", source=where)
        text = self.body
        for key, value in given.items():
            text = text.replace(f"${key}", value)
        return text


PRESETS = {
    p.name: p
    for p in (
        Preset(
            "fuse",
            "Find the ops that targets have kernels for: what every engine is made with.",
            "canonicalize,cse,fold-masks,fuse-rms-norm,fuse-layer-norm,fuse-swiglu,fuse-attention,merge-projections,"
            "canonicalize,cse",
        ),
        Preset(
            "lower",
            "Turn a graph into what one target takes.",
            "rewrite-plugins{target=$target},legalize{target=$target},canonicalize,cse",
            ("target",),
        ),
    )
}
