"""The options of TensorRT's builder, as the command line has them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trtc.errors import TrtcError

if TYPE_CHECKING:
    from trtc.backend.tensorrt.options import Options

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


def _option(section: str, help: str, metavar: str | None = None) -> Any:
    return typer.Option(help=help, metavar=metavar, rich_help_panel=f"TensorRT: {section}")


_shapes, _plan, _builder = (partial(_option, section) for section in ("shapes", "the plan", "the builder"))


@dataclass
class TensorRT:
    """What `trtc.backend.tensorrt.options.Options` holds, each as it is typed."""

    packed: Annotated[bool, _shapes("Tokens of all sequences lie in one row, without padding.")] = False
    max_num_tokens: Annotated[int, _shapes("New tokens of a batch in one call: bounds B * S, or T.", "N")] = 0
    opt_num_tokens: Annotated[int, _shapes("New tokens of a batch that kernels are chosen for.", "N")] = 0
    multiple_profiles: Annotated[bool, _shapes("A profile for each of several ranges of new tokens.")] = False
    weightless: Annotated[bool, _plan("Weights are inputs, in a file beside: one plan for all of a shape.")] = False
    refit: Annotated[bool, _plan("The weights in the plan can be exchanged: trtc refit.")] = False
    strip_plan: Annotated[bool, _plan("Weights lie in a file beside; the plan gets them as it is loaded.")] = False
    weight_streaming: Annotated[bool, _plan("Weights may stay in the host's memory.")] = False
    version_compatible: Annotated[bool, _plan("Newer versions, and the lean runtime, may run the plan.")] = False
    hardware_compatible: Annotated[
        str, _plan("On what other GPUs it runs: ampere_plus or same_compute_capability.", "WHICH")
    ] = "none"
    compute_capabilities: Annotated[str, _plan("Of TensorRT-RTX: the GPUs it is for, such as 8.9,12.0.", "LIST")] = ""
    profiling_verbosity: Annotated[
        str, _plan("What it can tell of its layers: layer_names_only, detailed or none.", "HOW")
    ] = ""
    enable_debug_output: Annotated[bool, _plan("What each module gives can be watched.")] = False
    optimization_level: Annotated[int | None, _builder("0, built fastest, to 5, runs fastest.", "N")] = None
    workspace: Annotated[str, _builder("Scratch memory at most, such as 4GB or 512MiB.", "SIZE")] = ""
    weight_sparsity: Annotated[bool, _builder("Take kernels for weights with two zeros in four.")] = False
    tactic_sources: Annotated[
        str, _builder("Libraries of kernels, such as cublas,edge_mask_convolutions.", "LIST")
    ] = ""
    input_timing_cache: Annotated[Path | None, _builder("Kernels' times that another build measured.", "FILE")] = None
    output_timing_cache: Annotated[Path | None, _builder("Where the kernels' times go.", "FILE")] = None
    monitor_memory: Annotated[bool, _builder("Say how much memory the builder takes.")] = False

    def options(self, workers: int) -> Options:
        """The typed record, checked."""
        from trtc.backend.tensorrt.options import Options

        given = {name: value for name, value in vars(self).items() if value not in (None, "")}
        for name in ("compute_capabilities", "tactic_sources"):
            if name in given:
                given[name] = tuple(part.strip() for part in given[name].split(","))
        if self.workspace:
            given["workspace"] = size_of(self.workspace)
        return Options(**given, workers=workers)


def size_of(text: str) -> int:
    """The bytes that a size says.

    >>> size_of("4GB"), size_of("512MiB"), size_of("1.5g"), size_of("4096")
    (4000000000, 536870912, 1500000000, 4096)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]i?|)b?", text.strip().lower())
    if not match:
        raise TrtcError(f"--workspace is {text}, but must be a size such as 4GB or 512MiB")
    return int(float(match[1]) * UNITS[match[2]])
