"""Engines of target cuda on the CPU: kernels by a C++ compiler, products by NumPy, memory and streams by stand-ins."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import emulator
import pytest
from fake_cublas import FakeCublas
from fake_cuda import Dim, FakeDriver, FakeKernel

import trtc
from trtc.backend.kernels.nvrtc import Binary
from trtc.runtime.cuda import cublaslt
from trtc.runtime.gpu import device as device_module
from trtc.runtime.gpu.driver import open_driver

_FOLDER = tempfile.TemporaryDirectory(prefix="trtc-kernels-")   # gone when the tests end


def emulated_source(source: Path, defines: Mapping[str, int | str], architecture: int) -> Binary:
    """In the place of `compile_source`: what a kernel is made of, instead of machine code."""
    said = {"source": str(source), "defines": dict(defines), "architecture": architecture}
    return Binary(b"cubin" + json.dumps(said, sort_keys=True).encode(), "")


class EmulatedModule(Mapping[str, FakeKernel]):
    """The kernels that `emulated_source` describes, compiled for the CPU when they are asked for."""

    def __init__(self, image: bytes) -> None:
        self._said = json.loads(image.removeprefix(b"cubin"))

    def __getitem__(self, entry: str) -> FakeKernel:
        library = _library(self._said["source"], json.dumps(self._said["defines"], sort_keys=True), entry)

        def run(grid: Dim, block: Dim, arguments: int) -> None:
            library.emulate((ctypes.c_uint * 3)(*grid), ctypes.c_uint(block[0]), ctypes.c_void_p(arguments), False)

        return FakeKernel(library.parameters(), run)

    def __contains__(self, entry: object) -> bool:
        return f" {entry}(" in emulator.inlined(Path(self._said["source"]))

    def __iter__(self) -> Iterator[str]:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError


@cache
def _library(source: str, defines: str, entry: str) -> Any:
    key = hashlib.sha256(repr((source, defines, entry)).encode()).hexdigest()[:16]
    os.mkdir(folder := Path(_FOLDER.name) / key)
    return emulator.build(Path(source), json.loads(defines), entry, folder)


def compile_emulated(patch: pytest.MonkeyPatch, model: Path, out: Path, dtype: str, **limits: Any) -> trtc.EngineBundle:
    """An engine whose cubins are descriptions of kernels."""
    patch.setattr(import_module("trtc.backend.kernels.kernel"), "compile_source", emulated_source)
    trtc.compile(model, out, target="cuda:90", dtype=dtype, **limits)
    return trtc.EngineBundle.open(out)


def install(patch: pytest.MonkeyPatch, driver: FakeDriver | None = None) -> FakeDriver:
    """Have sessions run on stand-ins."""
    driver = driver or FakeDriver()
    driver.load = EmulatedModule
    patch.setattr(device_module, "driver", lambda: open_driver(driver))
    patch.setattr(cublaslt, "load_library", lambda: FakeCublas(driver))
    return driver
