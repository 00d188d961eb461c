"""The Python module of TensorRT that loads a plan: the full one, the lean one, or that of TensorRT-RTX."""

from __future__ import annotations

import logging
from functools import cache
from importlib import import_module
from typing import Any, TypeAlias

from trtc.errors import MissingPackage, TrtcError
from trtc.runtime.bundle import EngineBundle

log = logging.getLogger("trtc.tensorrt")

MODULES = {"tensorrt": ("tensorrt", "tensorrt_lean"), "tensorrt-rtx": ("tensorrt_rtx_bindings", "tensorrt_rtx")}
EXTRAS = {"tensorrt": "tensorrt", "tensorrt-rtx": "rtx"}
Version: TypeAlias = tuple[int, ...]


def find_module(bundle: EngineBundle) -> Any:
    """The installed module that loads the plan of a bundle.

    A plan is loaded by the very version that built it; one built as version-compatible by any later version, and by
    the lean runtime, which is a tenth of the size.

    Errors:
        MissingPackage: none is installed.
        TrtcError: what is installed has another version.
    """
    target, found = bundle.target, list[str]()
    for name in MODULES[target.name]:
        try:
            module: Any = import_module(name)
        except (ImportError, OSError):   # OSError: a library that it needs is not there
            continue
        if _fits(name, module.__version__, bundle):
            return module
        found.append(f"{name} {module.__version__}")
    if not found:
        raise MissingPackage(MODULES[target.name][0], EXTRAS[target.name], f"run {target.name} engines")
    verb = "is" if len(found) == 1 else "are"
    kind = "is version-compatible" if is_compatible(bundle) else "is not version-compatible"
    built = f"{bundle.path} was built by {target.name} {target.version} and {kind}"
    raise TrtcError(
        f"{built}, but {' and '.join(found)} {verb} installed",
        f"help: compile again with what is installed, or install version {target.version}",
    )


def is_compatible(bundle: EngineBundle) -> bool:
    """Whether a plan was built for later versions, too."""
    return bool(bundle.builder.get("version_compatible"))


def _fits(name: str, version: str, bundle: EngineBundle) -> bool:
    pairs = zip(_numbers(version), _numbers(bundle.target.version), strict=False)   # one may be told less exactly
    have, built = zip(*pairs, strict=True)
    if is_compatible(bundle):
        return have >= built
    return have == built and not name.endswith("_lean")


def _numbers(version: str) -> Version:
    """The parts of a version that plans depend on.

    >>> _numbers("10.15.1.29")
    (10, 15, 1)
    """
    return tuple(int(part) for part in version.split(".")[:3] if part.isdigit())


class Said:
    """What TensorRT has complained of since it was last asked.

    Args:
        trt: its module; None where nothing complains.
    """

    def __init__(self, trt: Any = None) -> None:
        self.lines: list[str] = []
        self.recorder = _recorder(trt, self.lines) if trt else None

    def take(self) -> list[str]:
        """The complaints, which are then forgotten."""
        lines = self.lines.copy()
        self.lines.clear()
        return lines


def _recorder(trt: Any, lines: list[str]) -> Any:
    class Recorder(trt.IErrorRecorder):
        """Keeps complaints; its methods are TensorRT's, which asks none but the first two."""

        def __init__(self) -> None:
            trt.IErrorRecorder.__init__(self)

        def report_error(self, code: Any, description: str) -> bool:
            lines.append(description)
            return True

        def num_errors(self) -> int:
            return len(lines)

        get_num_errors = num_errors   # its name in 8.6

        def has_overflowed(self) -> bool:
            return False

        def clear(self) -> None:
            lines.clear()

    return Recorder()


@cache
def logger(trt: Any) -> Any:
    """A logger whose lines go to Python's log ``trtc.tensorrt``; TensorRT keeps to the first of the process."""
    levels = {"VERBOSE": logging.DEBUG, "INFO": logging.DEBUG, "WARNING": logging.INFO}

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            log.log(levels.get(severity.name, logging.INFO), "%s", message)   # errors are told by who meets them

    return Logger()
