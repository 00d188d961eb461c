"""A plan, loaded: what keeps it from loading is one sentence."""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtc.errors import TrtcError
from trtc.runtime.bundle import EngineBundle
from trtc.runtime.gpu.device import Device
from trtc.runtime.gpu.memory import megabytes
from trtc.runtime.tensorrt.module import Said, find_module, is_compatible, logger

_DEVICE = re.compile(r"incompatible device, expecting compute (\d+\.\d+),? got compute (\d+\.\d+)")
_VERSION = re.compile(r"version tag does not match|different version|version mismatch|incompatible version", re.I)
_MEMORY = re.compile(r"out ?of ?memory", re.I)
_DAMAGED = re.compile(r"Serialization assertion|Deserialization failed|invalid plan", re.I)
_LINE = re.compile(r"Error Code \d+: [\w ]+? \((?P<what>.*)\)$", re.DOTALL)
_PLACE = re.compile(r"\.?\s+In \w+ at /\S+|^\[[\w.]+:\d+: \w+\] |^\[\S+::\S+::\d+\] ")


@dataclass(frozen=True)
class Plan:
    """A plan on a GPU.

    Args:
        trt: the module that loaded it.
        engine: its ``ICudaEngine``.
        runtime: which must live as long.
        said: what TensorRT complains of.
    """

    trt: Any
    engine: Any
    runtime: Any
    said: Said
    file: Path

    def refusal(self, device: Device, what: str) -> TrtcError:
        """The error that TensorRT does not do something, with the reason that it gave."""
        lines = self.said.take()
        if any(map(_MEMORY.search, lines)):
            free, _ = device.memory
            return TrtcError(f"{what} needs more GPU memory than {device.name} has free, {megabytes(free)}",
                             "help: fewer sequences at a time, or fewer new tokens, need less")   # fmt: skip
        return TrtcError(f"TensorRT {self.trt.__version__} fails at {what}: {reason(lines)}")


def load_plan(bundle: EngineBundle, device: Device) -> Plan:
    """The plan of a bundle's rank, on a GPU.

    Errors:
        MissingPackage: no TensorRT is installed.
        TrtcError: the one that is has another version, the plan is another GPU's or damaged, or the memory too small.
    """
    trt, file = find_module(bundle), bundle.path / bundle.ranks[0].engine
    size, (free, _) = file.stat().st_size, device.memory
    if size > free:
        raise TrtcError(f"{file} has {megabytes(size)}, but {device.name} has {megabytes(free)} of memory free")
    said, runtime = Said(trt), trt.Runtime(logger(trt))
    runtime.error_recorder = said.recorder   # which the engine and its contexts take over
    if is_compatible(bundle) and hasattr(runtime, "engine_host_code_allowed"):
        runtime.engine_host_code_allowed = True   # its lean runtime, which the plan brings along
    engine: Any = None
    if size:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise _unloadable(bundle, file, device, trt, said.take())
    return Plan(trt, engine, runtime, said, file)


def _unloadable(bundle: EngineBundle, file: Path, device: Device, trt: Any, lines: list[str]) -> TrtcError:
    """The error of a plan that cannot be loaded."""
    for line in lines:
        if match := _DEVICE.search(line):
            have = "{}.{}".format(*device.compute_capability)
            other = match[2] if match[1] == have else match[1]
            want = f"compute capability {other}, but this machine has {device}"
            return TrtcError(f"{file} was built for a GPU of {want}", "help: compile on this machine")
        if _MEMORY.search(line):
            free, _ = device.memory
            return TrtcError(f"{file} needs more memory than {device.name} has free, {megabytes(free)}")
        if _VERSION.search(line):
            said = f"was built by TensorRT {bundle.target.version}, but this is {trt.__version__}"
            return TrtcError(f"{file} {said}", "help: compile again")
    if not lines or _DAMAGED.search(lines[0]):
        said = f"{file} is damaged, or no plan of TensorRT {trt.__version__}"
        return TrtcError(said, "help: copy the engine again, or compile it again")
    return TrtcError(
        f"{file} is no plan that TensorRT {trt.__version__} can load: {reason(lines)}", "help: compile it again"
    )


def reason(lines: list[str]) -> str:
    """What the first complaint says, without the places in TensorRT's own source."""
    if not lines:
        return "it gives no reason"
    match = _LINE.search(lines[0])
    return " ".join(_PLACE.sub("", match["what"] if match else lines[0]).split())
