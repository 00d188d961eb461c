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
        builds_with, runs_with: the modules without which it cannot build, or run; None where this release cannot.
        needs_gpu: whether engines run on a GPU alone.
    """

    name: str
    module: str
    extra: str
    builds_with: tuple[str, ...]
    runs_with: tuple[str, ...] | None
    needs_gpu: bool

    @property
    def lacks_to_build(self) -> list[str]:
        """The modules that are missing here to build with it."""
        return missing(self.builds_with)

    @property
    def lacks_to_run(self) -> list[str]:
        """The modules that are missing here to run its engines."""
        return missing(self.runs_with or ())

    @property
    def build(self) -> Callable[..., Any]:
        """Its build function; an error that names the extra if a package is missing."""
        if lacks := self.lacks_to_build:
            raise MissingPackage(lacks[0], self.extra, f"build for target {self.name}")
        return import_module(self.module).build

    @property
    def stored_bytes(self) -> Callable[..., int]:
        """The bytes of weights that an engine of a graph stores."""
        return import_module(self.module).stored_bytes


def missing(modules: tuple[str, ...]) -> list[str]:
    """Those of some modules that are not installed."""
    return [m for m in modules if not _found(m)]


def _found(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:   # of the package that it is part of
        return False


CUDA = "cuda.bindings"   # the calls of NVIDIA's driver

BACKENDS: Mapping[str, Backend] = {
    b.name: b
    for b in (
        Backend("onnx", "trtc.backend.onnx.build", "onnx", ("onnx",), ("onnxruntime",), needs_gpu=False),
        Backend(
            "tensorrt", "trtc.backend.tensorrt.build", "tensorrt", ("tensorrt",), ("tensorrt", CUDA), needs_gpu=True
        ),
        Backend(
            "tensorrt-rtx", "trtc.backend.tensorrt.build", "rtx", ("tensorrt_rtx_bindings", "tensorrt_rtx_libs"),
            ("tensorrt_rtx_bindings", CUDA), needs_gpu=True,
        ),
        Backend("cuda", "trtc.backend.cuda.build", "cuda", ("cuda.bindings",), (CUDA,), needs_gpu=True),
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
        if known.runs_with and not known.needs_gpu and not known.lacks_to_build and not known.lacks_to_run:
            return known.name
    raise TrtcError("no target can be built and run here", "help: pip install 'trtc[onnx]'; `trtc doctor` says more")
