"""Kernels on the CPU: their CUDA C++ compiled by a C++ compiler, with fibers for threads (emulated.hpp)."""

from __future__ import annotations

import ctypes
import re
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from kernel_cases import Case

from trtc.backend.kernels import Kernel, Launch, Pointer
from trtc.backend.kernels.nvrtc import INCLUDE
from trtc.expressions import evaluate
from trtc.ir.op import Array
from trtc.ir.ops import Input
from trtc.ir.types import evaluate as size_of

HEADER, ASYNC = (Path(__file__).with_name(name) for name in ("emulated.hpp", "emulated_async.hpp"))
OPTIONS = ("-std=c++17", "-O1", "-w", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", "-shared", "-fPIC")
_FOLDER = tempfile.TemporaryDirectory(prefix="trtc-emulator-")   # gone when the tests end
ASM = re.compile(r"asm(?: volatile)?\((.*?)\);", re.DOTALL)
CTYPES: dict[str, Any] = {"i32": ctypes.c_int, "i64": ctypes.c_longlong, "f32": ctypes.c_float}
POISON = 0xFF


def inlined(source: Path) -> str:
    """A source with what it includes, each file once."""
    seen: set[str] = set()

    def text(path: Path) -> str:
        seen.add(path.name)
        return INCLUDE.sub(lambda m: "" if m[1] in seen else text(path.parent / m[1]), path.read_text())

    return text(source).replace("#pragma once", "")


def call_of(match: re.Match[str]) -> str:
    """An ``asm`` of PTX as a call of the function of its name, with the operands in the order of the PTX.

    Names between its literals are left out; declarations of registers too.
    """
    literals = re.match(r'(?:\s|\w|"[^"]*")*', match[1])
    assert literals
    template = re.sub(r"^{ (\.reg [^;]*; )*", "", "".join(re.findall(r'"([^"]*)"', literals[0])))
    if not template:
        return ";"
    operands = re.findall(r'"[=+]?[a-z]"\(([^()]*(?:\([^()]*\)[^()]*)*)\)', match[1] + ")")
    order = [operands[int(i)] for i in re.findall(r"%(\d+)", template)]
    return f"{re.sub(r'[^0-9a-z_A-Z]', '_', template.split()[0])}({', '.join(order)});"


def build(source: Path, defines: Mapping[str, int | str], entry: str, folder: Path) -> Any:
    """The library of a compiled kernel.

    Result:
        ``emulate``, a function of grid, threads of a block, pointers to arguments, order of turns; ``parameters``, of
        nothing, which says how many arguments there are.
    """
    code = ASM.sub(call_of, inlined(source))
    code = code.replace("extern __shared__ char memory[];", "char* const memory = dynamic_shared();")
    macros = "".join(f"#define {k} {v}\n" for k, v in defines.items())
    tail = (
        'extern "C" void emulate(const unsigned* grid, unsigned block, void** arguments, bool last_first) {\n'
        f"    backwards = last_first;\n    launch({entry}, grid, block, arguments);\n}}\n"
        "template <class... P> static int count(void (*)(P...)) { return sizeof...(P); }\n"
        f'extern "C" int parameters() {{ return count({entry}); }}\n'
    )
    path, library = folder / "kernel.cpp", folder / "kernel.so"
    more = f'#include "{ASYNC}"\n' if "wgmma" in code else ""   # templates, which cost more time than a kernel
    path.write_text(f'#include "{_header()}"\n{more}{macros}{code}\n{tail}')
    _gpp(str(path), "-o", str(library))
    return ctypes.CDLL(str(library))


def _gpp(*arguments: str) -> None:
    subprocess.run(["g++", *OPTIONS, *arguments], check=True, timeout=120)


@cache
def _header() -> Path:
    """The header beside its compiled form, which halves the time of a build."""
    copy = Path(_FOLDER.name) / HEADER.name
    copy.write_bytes(HEADER.read_bytes())
    _gpp("-x", "c++-header", str(copy), "-o", f"{copy}.gch")
    return copy


def run(kernel: Kernel, case: Case, folder: Path, multiprocessors: int = 8) -> list[Array]:
    """The results of one launch on a case's tensors; the same, bit by bit, whether threads and blocks take turns from
    the first on or from the last. Outputs and workspace are poisoned first."""
    launch = kernel.launch(case.op)
    function = build(kernel.source, launch.defines, launch.entry, folder).emulate
    first, again = (_run(function, kernel, case, multiprocessors, backwards) for backwards in (False, True))
    same = all(a.tobytes() == b.tobytes() for a, b in zip(first, again, strict=True))
    assert same, "the order of threads and blocks must not matter"
    return first


def _run(function: Any, kernel: Kernel, case: Case, multiprocessors: int, backwards: bool) -> list[Array]:
    launch = kernel.launch(case.op)
    sizes = {**case.sizes, "multiprocessors": multiprocessors}
    operands = {name: stored(case.tensors[v.key]) for name, v in case.op.operands.items() if isinstance(v, Input)}
    results: list[Array] = []
    for i, of in enumerate(case.op.types):
        shape = tuple(size_of(s, sizes) for s in of.shape)
        made = np.full(int(np.prod(shape)) * of.dtype.bits // 8, POISON, np.uint8)
        if i in launch.in_place:
            made = operands[launch.in_place[i]].copy()
            operands[launch.in_place[i]] = made
        results.append(made)
    workspace = np.full(evaluate(launch.workspace_bytes, sizes) + 16, POISON, np.uint8)
    counters = np.zeros(evaluate(launch.counter_bytes, sizes) + 16, np.uint8)
    _call(function, backwards, launch, sizes, {
        **{("operand", k): v for k, v in operands.items()}, **{("result", str(i)): r for i, r in enumerate(results)},
        ("workspace", ""): workspace, ("counters", ""): counters,
    })   # fmt: skip
    assert not counters.any(), "counters must be zero again"
    shapes = [tuple(size_of(s, sizes) for s in of.shape) for of in case.op.types]
    return [r.view(t.dtype.numpy).reshape(s) for r, t, s in zip(results, case.op.types, shapes, strict=True)]


def _call(
    function: Any, backwards: bool, launch: Launch, sizes: Mapping[str, int], buffers: Mapping[tuple[str, str], Array]
) -> None:
    values: list[Any] = []
    for argument in launch.arguments:
        if isinstance(argument, Pointer):
            values.append(ctypes.c_void_p(buffers[argument.kind, argument.name].ctypes.data))
        else:
            number: Any = argument.value
            values.append(CTYPES[argument.dtype](number if isinstance(number, float) else evaluate(number, sizes)))
    pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
    grid = (ctypes.c_uint * 3)(*(evaluate(n, sizes) for n in launch.grid))
    function(grid, ctypes.c_uint(launch.block[0]), pointers, ctypes.c_bool(backwards))


def stored(array: Array) -> Array:
    """The bytes of an array in memory of its own; two i4 a byte, the first in the low half."""
    if array.dtype.name == "int4":
        pairs = array.astype(np.uint8).reshape(-1, 2) & 15
        array = pairs[:, 0] | pairs[:, 1] << 4
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    memory = np.empty(flat.size + 64, np.uint8)
    aligned = memory[-memory.ctypes.data % 16 :][: flat.size]   # as a device's allocations are
    aligned[:] = flat
    return aligned
