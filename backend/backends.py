"""The back ends: which packages each needs to build and to run, and how it builds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from trtc.backend.gpu import GPU, gpus
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
        serves: whether engines run on GPUs of a compute capability such as ``8.9``; None where they need none.
    """

    name: str
    module: str
    extra: str
    builds_with: tuple[str, ...]
    runs_with: tuple[str, ...] | None
    serves: Callable[[str], bool] | None

    def why_not_run(self, found: Sequence[GPU]) -> str:
        """Why a machine with these GPUs cannot run its engines; empty where it can. They run on the first."""
        if self.runs_with is None:
            return "not in this release"
        if lacks := self.lacks_to_run:
            return f"{lacks[0]} is missing"
        if self.serves and not found:
            return "there is no GPU"
        if self.serves and not self.serves(found[0].capability):
            return f"{found[0].name} has compute capability {found[0].capability}, which it does not serve"
        return ""

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
RTX = ("7.5", "8.6", "8.9", "12.0", "12.1")   # compute capabilities of GeForce RTX and RTX PRO


def _has_kernels(capability: str) -> bool:
    return import_module("trtc.backend.cuda.target").architecture(capability) is not None


BACKENDS: Mapping[str, Backend] = {
    b.name: b
    for b in (
        Backend(
            "tensorrt-rtx", "trtc.backend.tensorrt.build", "rtx", ("tensorrt_rtx_bindings", "tensorrt_rtx_libs"),
            ("tensorrt_rtx_bindings", CUDA), RTX.__contains__,
        ),
        Backend(
            "tensorrt", "trtc.backend.tensorrt.build", "tensorrt", ("tensorrt",), ("tensorrt", CUDA), lambda _: True
        ),
        Backend("cuda", "trtc.backend.cuda.build", "cuda", (CUDA,), (CUDA,), _has_kernels),
        Backend("onnx", "trtc.backend.onnx.build", "onnx", ("onnx",), ("onnxruntime",), None),
    )
}
"""The best first, where a machine has several."""


def backend(name: str) -> Backend:
    """The back end of a target's name."""
    if name not in BACKENDS:
        raise TrtcError(f"target {name} cannot be built", *nearest(name, BACKENDS))
    return BACKENDS[name]


def best(found: Sequence[GPU]) -> str | None:
    """The best target that a machine with these GPUs can both build and run."""
    fit = (b.name for b in BACKENDS.values() if not b.lacks_to_build and not b.why_not_run(found))
    return next(fit, None)


def default_target() -> str:
    """The best target that this machine can both build and run."""
    if name := best(gpus()):
        return name
    raise TrtcError("no target can be built and run here", "help: pip install 'trtc[onnx]'; `trtc doctor` says more")
