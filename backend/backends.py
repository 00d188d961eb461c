"""The back ends: which packages each needs to build and to run, and how it builds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from trtc.errors import MissingPackage, TrtcError
from trtc.ir.errors import nearest


@dataclass(frozen=True)
class Backend:
    """One back end.

    Args:
        name: the target's name.
        module: what holds its ``build`` and ``stored_bytes``; imported when it builds.
        extra: the extra of trtc that installs it.
        builds_with, runs_with: the modules without which it cannot build, or run; several alternatives in a tuple.
        needs_gpu: whether engines run on a GPU alone.
    """

    name: str
    module: str
    extra: str
    builds_with: tuple[str, ...]
    runs_with: tuple[str, ...]
    needs_gpu: bool

    def missing(self, modules: tuple[str, ...]) -> list[str]:
        return [m for m in modules if find_spec(m) is None]

    @property
    def builds(self) -> bool:
        return not self.missing(self.builds_with)

    @property
    def build(self) -> Callable[..., Any]:
        """Its build function; an error that names the extra if a package is missing."""
        if missing := self.missing(self.builds_with):
            raise MissingPackage(missing[0], self.extra, f"build for target {self.name}")
        return import_module(self.module).build

    @property
    def stored_bytes(self) -> Callable[..., int]:
        """The bytes of weights that an engine of a graph stores."""
        return import_module(self.module).stored_bytes


BACKENDS: Mapping[str, Backend] = {
    b.name: b
    for b in (
        Backend("onnx", "trtc.backend.onnx.build", "onnx", ("onnx",), ("onnxruntime",), needs_gpu=False),
    )
}


def backend(name: str) -> Backend:
    """The back end of a target's name."""
    if name not in BACKENDS:
        raise TrtcError(f"target {name} cannot be built", *nearest(name, BACKENDS))
    return BACKENDS[name]


def default_target() -> str:
    """The best target that this machine can both build and run."""
    for known in BACKENDS.values():
        if known.builds and not known.missing(known.runs_with) and not known.needs_gpu:
            return known.name
    raise TrtcError("no target can be built and run here", "help: pip install 'trtc[onnx]'; `trtc doctor` says more")
