"""Engines of target cuda on the CPU: kernels by a C++ compiler, products by NumPy, memory and streams by stand-ins."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import emulator
import pytest
from fake_cublas import FakeCublas
from fake_cuda import Dim, FakeDriver

import trtc
from trtc.backend.kernels.nvrtc import Binary
from trtc.runtime.cuda import cublaslt
from trtc.runtime.gpu import device as device_module
from trtc.runtime.gpu.driver import open_driver

KERNEL = re.compile(r"__global__ void (?:__launch_bounds__\([^)]*\) )?(\w+)\(")
_FOLDER = tempfile.TemporaryDirectory(prefix="trtc-kernels-")   # gone when the tests end


def emulated_source(
    source: Path, defines: Mapping[str, int | str], architecture: int, specific: bool = False
) -> Binary:
    """In the place of `compile_source`: what a kernel is made of, instead of machine code."""
    said = {"source": str(source), "defines": dict(defines), "architecture": architecture}
    return Binary(b"cubin" + json.dumps(said, sort_keys=True).encode(), "")


@dataclass(frozen=True)
class EmulatedKernel:
    """A kernel that is compiled for the CPU when it is first launched.

    Args:
        said: what `emulated_source` says of it.
    """

    said: Mapping[str, Any]
    entry: str

    @property
    def library(self) -> Any:
        return _library(self.said["source"], json.dumps(self.said["defines"], sort_keys=True), self.entry)

    @property
    def parameters(self) -> int:
        return self.library.parameters()

    def run(self, grid: Dim, block: Dim, arguments: int) -> None:
        blocks = (ctypes.c_uint * 3)(*grid)
        self.library.emulate(blocks, ctypes.c_uint(block[0]), ctypes.c_void_p(arguments), ctypes.c_bool(False))


def kernels(image: bytes) -> dict[str, EmulatedKernel]:
    """The kernels of a cubin of `emulated_source`."""
    said = json.loads(image.removeprefix(b"cubin"))
    return {name: EmulatedKernel(said, name) for name in KERNEL.findall(emulator.inlined(Path(said["source"])))}


@cache
def _library(source: str, defines: str, entry: str) -> Any:
    key = hashlib.sha256(repr((source, defines, entry)).encode()).hexdigest()[:16]
    os.mkdir(folder := Path(_FOLDER.name) / key)
    return emulator.build(Path(source), json.loads(defines), entry, folder)


def emulate(patch: pytest.MonkeyPatch) -> None:
    """Have kernels described, not compiled: the emulator counts their parameters, where there is no PTX that does."""
    module = import_module("trtc.backend.kernels.kernel")
    patch.setattr(module, "compile_source", emulated_source)

    def unchecked(*_: object) -> None:
        pass

    patch.setattr(module, "check", unchecked)


def compile_emulated(patch: pytest.MonkeyPatch, model: Path, out: Path, dtype: str, **given: Any) -> trtc.EngineBundle:
    """An engine whose cubins are descriptions of kernels; for 9.0 where no target is given."""
    emulate(patch)
    options: dict[str, Any] = {"target": "cuda:90", **given}
    trtc.compile(model, out, dtype=dtype, **options)
    return trtc.EngineBundle.open(out)


def change_plan(engine: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change plan.json, and the size that engine.json says."""
    plan, said = engine / "rank0/plan.json", engine / "engine.json"
    document = json.loads(plan.read_text())
    edit(document)
    plan.write_text(json.dumps(document))
    bundle = json.loads(said.read_text())
    bundle["files"]["rank0/plan.json"]["bytes"] = plan.stat().st_size
    said.write_text(json.dumps(bundle))


def install(patch: pytest.MonkeyPatch, driver: FakeDriver | None = None, **options: Any) -> FakeDriver:
    """Have sessions run on stand-ins.

    Args:
        options: of `FakeCublas`.
    """
    driver = driver or FakeDriver()
    driver.load = kernels
    patch.setattr(device_module, "driver", lambda: open_driver(driver))
    patch.setattr(cublaslt, "load_library", lambda: FakeCublas(driver, **options))
    return driver
