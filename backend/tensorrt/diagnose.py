"""TensorRT's error lines, as errors of ours that name the op.

TensorRT does not raise: a rejected layer or setting is a line on its error recorder, and the build may go on to make a
wrong engine. So every call is followed by ``check``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from trtc.backend.tensorrt.bindings import UNSTARTED, complaints, product_of
from trtc.backend.tensorrt.gpu_memory import gpu_memory
from trtc.errors import TrtcError
from trtc.ir.op import Op

DRIVER = "CUDA driver version is insufficient"   # said after each error where there is no GPU; no error by itself

_LINE = re.compile(r"Error Code \d+: (?P<kind>[\w ]+?) \((?P<what>.*)\)$", re.DOTALL)
_PLACE = re.compile(   # in their source
    r"\.?\s+In \w+ at /\S+|^\[[\w.]+:\d+: \w+\] |\bMyelinCheckException: [\w.]+:\d+: "
)
_CONDITION = re.compile(r"^Parameter check failed, condition: (?P<condition>.*?)\. (?P<what>\S.*)$", re.DOTALL)


_NO_CONTEXT = re.compile(rf"{UNSTARTED} with error: 2\b")          # cudaErrorMemoryAllocation
_NO_GPU = re.compile(rf"{UNSTARTED} with error: (35|100)\b")       # no driver, or an old one; no GPU

CRAMPED = 0.02   # the part of a GPU's memory that is free, below which other processes are to blame
HELD = "help: nvidia-smi tells which processes hold it"
MEMORY = "help: a smaller --max-batch-size, --max-input-len or --workspace needs less, and so does --weightless"
EXPLAINED: Sequence[tuple[re.Pattern[str], str, str]] = (
    (
        re.compile(r"out ?of ?memory|bad_alloc|CHECK\(p\)|Resource temporarily unavailable", re.IGNORECASE),
        "{} has not the memory to build the network", MEMORY,
    ),
    (
        re.compile(r"graph_jit|not found in the accelerator list|CHECK\(status == CUDA_SUCCESS\)"),
        "{} builds plans to refit on a machine with a GPU only", "help: --weightless does the same, on any machine",
    ),
    (
        re.compile(r"Could not find any implementation|no tactics to implement", re.IGNORECASE),
        "{} finds no kernels for a part of the network",
        "help: give it more --workspace, or another --optimization-level",
    ),
    (
        re.compile(r"Unable to load library: libnvinfer_lean"),
        "{} needs the library of its lean runtime to build version-compatible plans",
        "help: install tensorrt_lean of the same version, and have the loader find its library by that name",
    ),
)   # fmt: skip
"""What lines of TensorRT's come of, where they do not say it themselves: by what they hold, our words and the fix."""


class BuildError(TrtcError):
    """TensorRT refuses a layer, a setting or the network."""


class Diagnostics:
    """What TensorRT has complained of since the last check.

    Args:
        trt: its Python module.
    """

    def __init__(self, trt: Any) -> None:
        self.product = product_of(trt)
        self.lines: list[str] = []
        self.driverless = False   # it has looked for a GPU in vain, which is no error by itself
        self.owners: dict[str, Op] = {}   # of each layer, the op that it was made for
        self.recorder = _recorder(trt, self.lines)

    def check(self, op: Op | None = None) -> None:
        """Raise what has been complained of.

        Args:
            op: what was being emitted; found by the layer's name in the complaint where not given.
        Errors:
            BuildError: it names the op's kind and place, what TensorRT says, and the operands.
        """
        lines = [*self.lines, *complaints]
        self.forget()
        self.driverless |= any(DRIVER in line for line in lines)
        if said := [readable(line) for line in lines if DRIVER not in line]:
            raise self.refusal(op or self._owner(said[0]), *said)

    def forget(self) -> None:
        """Let go of what has been complained of."""
        self.lines.clear()
        complaints.clear()

    def unstarted(self) -> BuildError:
        """The error that there is no builder."""
        if any(_NO_CONTEXT.search(line) for line in complaints):
            return BuildError("the GPU has no memory left for another process", HELD)
        said = [line for line in complaints if not _NO_GPU.search(line)]
        return BuildError(f"{self.product} builds on a machine with a GPU only", *said)

    def cramped(self, error: BuildError) -> BuildError:
        """The same error, or that other processes leave the GPU no memory, which TensorRT has many words for."""
        free, total = gpu_memory()
        if free >= CRAMPED * total:
            return error
        left = f"{free / 1e6:,.1f} MB of the GPU's {total / 1e6:,.1f} MB are free"
        lines = [fact for fact in (error.message, *error.facts) if not fact.startswith("help: ")]
        return BuildError(f"{self.product} has not the memory to build the network: {left}", *lines, HELD)

    def refusal(self, op: Op | None, *said: str) -> BuildError:
        """The error that TensorRT says this of an op, or of the network."""
        where = f"{op.name} at {op.loc or '?'}" if op else "the network"
        for pattern, words, fix in EXPLAINED:
            if any(map(pattern.search, said)):
                return BuildError(words.format(self.product), *dict.fromkeys(said), fix)
        operands: Mapping[str, Any] = op.operands if op else {}
        notes = [*(f"{name} : {value.type}" for name, value in operands.items()), *dict.fromkeys(said[1:])]
        return BuildError(f"{self.product} refuses {where}: {said[0]}", *notes)

    def _owner(self, line: str) -> Op | None:
        """The op whose layer a line names; the longest name wins, as others may be part of it."""
        named = [layer for layer in self.owners if re.search(rf"(?<!\w){re.escape(layer)}(?!\w)", line)]
        return self.owners[max(named, key=len)] if named else None


def readable(line: str) -> str:
    """What a line says, without the places in TensorRT's own source.

    >>> readable("ILayer::setName: Error Code 3: API Usage Error (The name is in use. In f at /_src/network.cpp:3117)")
    'The name is in use'
    """
    if match := _LINE.search(line):
        line = _PLACE.sub("", match["what"])
        if condition := _CONDITION.match(line):
            line = condition["what"]
        if match["kind"] == "OutOfMemory":
            line = f"out of memory: {line}"
        elif line.strip() in ("", "no further information"):
            line = f"{match['kind']}: no further information"
    return " ".join(line.split())


def _recorder(trt: Any, lines: list[str]) -> Any:
    class Recorder(trt.IErrorRecorder):
        def __init__(self) -> None:
            trt.IErrorRecorder.__init__(self)

        def report_error(self, code: Any, description: str) -> bool:
            lines.append(description)
            return True

        def num_errors(self) -> int:
            return len(lines)

        get_num_errors = num_errors   # its name in 8.6

        def get_error_code(self, index: int) -> Any:
            return trt.ErrorCodeTRT.UNSPECIFIED_ERROR

        def get_error_desc(self, index: int) -> str:
            return lines[index]

        def has_overflowed(self) -> bool:
            return False

        def clear(self) -> None:
            lines.clear()

    return Recorder()
