"""CUDA C++ to machine code and PTX with NVRTC, which needs no GPU; kept by content in the user's cache folder."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from trtc.errors import MissingPackage, TrtcError

INCLUDE = re.compile(r'^\s*#include "([^"]+)"', re.MULTILINE)
OPTIONS = ("--std=c++17", "--extra-device-vectorization")


@dataclass(frozen=True)
class Binary:
    """What NVRTC makes of a source: machine code of one architecture, and the PTX it came from."""

    cubin: bytes
    ptx: str


def compile_source(
    source: Path, defines: Mapping[str, int | str], architecture: int, specific: bool = False
) -> Binary:
    """A source's machine code and PTX, from the cache where they were made before.

    Args:
        source: a file of CUDA C++; files that it includes by ``#include "..."`` lie beside it.
        defines: ``-D`` name to value.
        architecture: 90 for compute capability 9.0.
        specific: whether the source may use instructions that no other architecture has.
    """
    headers = _headers(source)
    name = f"sm_{architecture}{'a' * specific}"
    options = [f"--gpu-architecture={name}", *OPTIONS, *(f"-D{k}={v}" for k, v in sorted(defines.items()))]
    key = hashlib.sha256(repr((source.read_text(), headers, options, _version())).encode()).hexdigest()[:40]
    base = cache_folder() / f"{source.stem}-{key}"
    cubin, ptx = base.with_suffix(".cubin"), base.with_suffix(".ptx")
    with suppress(OSError):
        return Binary(cubin.read_bytes(), ptx.read_text())
    made = _compile(source, headers, options)
    with suppress(OSError):   # where nothing can be kept, it is compiled anew each time
        base.parent.mkdir(parents=True, exist_ok=True)
        _write(ptx, made.ptx.encode())
        _write(cubin, made.cubin)
    return made


def cache_folder() -> Path:
    """Where compiled kernels are kept: ``$TRTC_CACHE``, or ``trtc/kernels`` in the user's cache folder."""
    given = os.environ.get("TRTC_CACHE")
    root = os.environ.get("XDG_CACHE_HOME") or _home() / ".cache"
    return Path(given) if given else Path(root) / "trtc" / "kernels"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:   # a user that no one has told of, as in containers: nothing can be kept
        return Path(os.devnull)


def _headers(source: Path) -> dict[str, str]:
    """The files that a source includes, and those that they include, by name."""
    found: dict[str, str] = {}
    left = [source.read_text()]
    while left:
        for name in INCLUDE.findall(left.pop()):
            if name not in found:
                path = source.parent / name
                if not path.is_file():
                    raise TrtcError(f"{source.name} includes {name}, but {path} is no file")
                found[name] = path.read_text()
                left.append(found[name])
    return found


def _write(path: Path, content: bytes) -> None:
    """A whole file or none, whoever else writes it."""
    handle, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _api() -> Any:
    try:
        return import_module("cuda.bindings.nvrtc")
    except ImportError:
        raise MissingPackage("cuda.bindings", "cuda", "compile CUDA kernels") from None


def _version() -> tuple[int, int]:
    error, major, minor = _api().nvrtcVersion()
    _check(error, "nvrtcVersion")
    return major, minor


def _compile(source: Path, headers: Mapping[str, str], options: list[str]) -> Binary:
    api = _api()
    names, texts = list(headers), list(headers.values())
    error, program = api.nvrtcCreateProgram(
        source.read_text().encode(), source.name.encode(), len(names),
        [t.encode() for t in texts], [n.encode() for n in names],
    )   # fmt: skip
    _check(error, "nvrtcCreateProgram")
    try:
        (error,) = api.nvrtcCompileProgram(program, len(options), [o.encode() for o in options])
        if int(error):
            log = _text(program, api.nvrtcGetProgramLogSize, api.nvrtcGetProgramLog).decode(errors="replace")
            lines = [line for line in log.rstrip("\0\n").splitlines() if line.strip()]
            raise TrtcError(f"{source} does not compile for {options[0].partition('=')[2]}", *lines[:20])
        cubin = _text(program, api.nvrtcGetCUBINSize, api.nvrtcGetCUBIN)
        ptx = _text(program, api.nvrtcGetPTXSize, api.nvrtcGetPTX)
    finally:
        api.nvrtcDestroyProgram(program)
    return Binary(cubin, ptx.rstrip(b"\0").decode())


def _text(program: Any, size: Any, get: Any) -> bytes:
    error, length = size(program)
    _check(error, size.__name__)
    content = b" " * length
    (error,) = get(program, content)
    _check(error, get.__name__)
    return content


def _check(error: Any, what: str) -> None:
    if int(error):
        raise TrtcError(f"{what} of NVRTC answered {error.name}")
