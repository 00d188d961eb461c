"""Matrix products by cuBLASLt: the calls of its C library that are used here, and no others.

cuBLASLt stores matrices by columns: what is ``y[m, n] = x[m, k] @ transpose(w[n, k])`` by rows is, by columns,
``y[n, m] = transpose(w[k, n]) @ x[k, m]`` over the same bytes.
"""

from __future__ import annotations

import ctypes
import weakref
from ctypes import byref, c_char_p, c_float, c_int, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p, sizeof
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trtc.errors import MissingPackage, TrtcError
from trtc.runtime.gpu.device import Device
from trtc.runtime.gpu.stream import Stream

VERSIONS = (13, 12)
TYPES = {"f32": 0, "f16": 2, "bf16": 14}               # CUDA_R_32F, CUDA_R_16F, CUDA_R_16BF
COMPUTE_32F = 68                                       # products and sums in f32; no tf32
TRANSA, EPILOGUE, BIAS_POINTER = 3, 7, 8               # CUBLASLT_MATMUL_DESC_*
WORKSPACE, REDUCTION, FIRST_ALIGNMENT = 1, 3, 5        # CUBLASLT_MATMUL_PREF_*; of a, b, c and d, in this order
TRANSPOSED, BIAS = 1, 4                                # CUBLAS_OP_T, CUBLASLT_EPILOGUE_BIAS
REDUCE_F32 = 2                                         # CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE: parts of sums are f32
ALIGNMENT = 256                                        # bytes: no algorithm asks for more


class Refused(TrtcError):
    """cuBLASLt gives a status other than 0."""


class Algorithm(ctypes.Structure):
    """``cublasLtMatmulHeuristicResult_t``: an algorithm and what it needs."""

    _fields_ = (
        ("opaque", c_uint64 * 8), ("workspace", c_size_t), ("state", c_int), ("waves", c_float), ("", c_int * 4),
    )   # fmt: skip

    def __bytes__(self) -> bytes:
        """What it is made of again, by the same version of the library."""
        return bytes(self.opaque)


SIGNATURES: dict[str, list[Any]] = {
    "cublasLtCreate": [c_void_p],
    "cublasLtDestroy": [c_void_p],
    "cublasLtMatmulDescCreate": [c_void_p, c_int, c_int],
    "cublasLtMatmulDescSetAttribute": [c_void_p, c_int, c_void_p, c_size_t],
    "cublasLtMatmulDescDestroy": [c_void_p],
    "cublasLtMatrixLayoutCreate": [c_void_p, c_int, c_uint64, c_uint64, c_int64],
    "cublasLtMatrixLayoutDestroy": [c_void_p],
    "cublasLtMatmulPreferenceCreate": [c_void_p],
    "cublasLtMatmulPreferenceSetAttribute": [c_void_p, c_int, c_void_p, c_size_t],
    "cublasLtMatmulPreferenceDestroy": [c_void_p],
    "cublasLtMatmulAlgoGetHeuristic": [*[c_void_p] * 7, c_int, c_void_p, c_void_p],
    "cublasLtMatmulAlgoCheck": [c_void_p] * 8,
    "cublasLtMatmul": [*[c_void_p] * 14, c_size_t, c_void_p],
}


@dataclass(frozen=True)
class Shape:
    """What an algorithm is chosen by.

    Args:
        dtype: of all of them.
        bias, residual: whether there is one.
        workspace: bytes that it may compute in.
        alignment: of all addresses: the greatest power of two, up to 256.
    """

    m: int
    n: int
    k: int
    dtype: str
    bias: bool
    residual: bool
    workspace: int
    alignment: int

    def __str__(self) -> str:
        return f"{self.m} x {self.k} by {self.k} x {self.n} in {self.dtype}"


class Descriptor:
    """An object of cuBLASLt, destroyed with this one.

    Args:
        kind: the name of its type.
        arguments: of what creates it.
    """

    def __init__(self, library: CublasLt, kind: str, *arguments: Any) -> None:
        self._library, self._kind, self.handle = library, kind, c_void_p()
        library.call(f"{kind}Create", byref(self.handle), *arguments)
        weakref.finalize(self, library.call, f"{kind}Destroy", self.handle)

    def set(self, attribute: int, value: Any) -> None:
        """Set an attribute."""
        self._library.call(f"{self._kind}SetAttribute", self.handle, attribute, byref(value), sizeof(value))


@dataclass(frozen=True)
class Problem:
    """cuBLASLt's descriptors of a shape."""

    operation: Descriptor
    weight: Descriptor
    x: Descriptor
    y: Descriptor

    @property
    def handles(self) -> list[c_void_p]:
        """In the library's order: the operation, a, b, c and d."""
        return [d.handle for d in (self.operation, self.weight, self.x, self.y, self.y)]


@dataclass(frozen=True)
class Operands:
    """Addresses of a product's operands; 0 where there is none."""

    x: int
    weight: int
    y: int
    workspace: int
    bias: int = 0
    residual: int = 0

    @property
    def alignment(self) -> int:
        joint = ALIGNMENT | self.x | self.weight | self.y | self.workspace | self.bias | self.residual
        return joint & -joint


class CublasLt:
    """The library, opened on a GPU that is in use by the calling thread.

    Errors:
        MissingPackage: it is not installed.
        TrtcError: it is newer than the driver.
    """

    def __init__(self, device: Device) -> None:
        self.library, self.handle = load_library(), c_void_p()
        for name, arguments in SIGNATURES.items():
            getattr(self.library, name).argtypes = arguments
        self.library.cublasLtGetStatusString.restype = c_char_p
        self.library.cublasLtGetVersion.restype = c_size_t
        if code := self.library.cublasLtCreate(byref(self.handle)):
            raise TrtcError(
                f"{self} does not start on {device}, whose driver is for CUDA {device.driver_version}: "
                f"{self._said(code)}",
                "help: install a newer driver",
            )
        self.free = weakref.finalize(self, self.library.cublasLtDestroy, self.handle)

    @property
    def version(self) -> int:
        """130100 for 13.1.0."""
        return int(self.library.cublasLtGetVersion())

    def __str__(self) -> str:
        return f"cuBLASLt {self.version // 10000}.{self.version // 100 % 100}"

    def _said(self, code: int) -> str:
        return self.library.cublasLtGetStatusString(code).decode()

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the library.

        Errors:
            Refused: it gives a status other than 0.
        """
        if code := getattr(self.library, name)(*arguments):
            raise Refused(f"{self} refuses {name}: {self._said(code)}")

    def problem(self, shape: Shape) -> Problem:
        """The descriptors of a shape."""
        dtype = TYPES[shape.dtype]
        operation = Descriptor(self, "cublasLtMatmulDesc", COMPUTE_32F, TYPES["f32"])
        operation.set(TRANSA, c_int32(TRANSPOSED))
        if shape.bias:
            operation.set(EPILOGUE, c_int32(BIAS))
            operation.set(BIAS_POINTER, c_void_p(shape.alignment))   # any address that is aligned so
        weight, x, y = (
            Descriptor(self, "cublasLtMatrixLayout", dtype, rows, columns, rows)
            for rows, columns in ((shape.k, shape.n), (shape.k, shape.m), (shape.n, shape.m))
        )
        return Problem(operation, weight, x, y)

    def candidates(self, shape: Shape, problem: Problem, most: int) -> list[Algorithm]:
        """Algorithms for a product: the one that the library takes to be the fastest first.

        Errors:
            TrtcError: the library has none.
        """
        preference = Descriptor(self, "cublasLtMatmulPreference")
        preference.set(WORKSPACE, c_uint64(shape.workspace))
        preference.set(REDUCTION, c_uint32(REDUCE_F32))
        for i in range(4):
            preference.set(FIRST_ALIGNMENT + i, c_uint32(shape.alignment))
        found, count = (Algorithm * most)(), c_int()
        code = self.library.cublasLtMatmulAlgoGetHeuristic(
            self.handle, *problem.handles, preference.handle, most, byref(found), byref(count)
        )
        usable = [algorithm for algorithm in found[: count.value] if not algorithm.state]
        if code or not usable:
            said = self._said(code or found[0].state)
            raise TrtcError(f"{self} has no algorithm for {shape}: {said}")
        return usable

    def known(self, shape: Shape, problem: Problem, opaque: bytes) -> Algorithm | None:
        """The algorithm of these bytes; None where the library refuses it for this product."""
        algorithm, needs = Algorithm.from_buffer_copy(opaque.ljust(sizeof(Algorithm), b"\0")), Algorithm()
        code = self.library.cublasLtMatmulAlgoCheck(self.handle, *problem.handles, byref(algorithm), byref(needs))
        return None if code or needs.state or needs.workspace > shape.workspace else algorithm


class Matmul:
    """One product with its operands; problem and algorithm may be others' too."""

    def __init__(
        self, library: CublasLt, shape: Shape, problem: Problem, algorithm: Algorithm, operands: Operands
    ) -> None:
        self._library, self._problem, self._algorithm = library, problem, algorithm
        self._bias = c_void_p(operands.bias) if shape.bias else None
        self._numbers = c_float(1.0), c_float(1.0 if shape.residual else 0.0)   # which must live as long
        alpha, beta = map(byref, self._numbers)
        operation, weight, x, y, _ = problem.handles
        self._arguments = (
            library.handle, operation, alpha, operands.weight, weight, operands.x, x,
            beta, operands.residual or operands.y, y, operands.y, y,
            byref(algorithm), operands.workspace, shape.workspace,
        )   # fmt: skip

    def enqueue(self, stream: Stream) -> None:
        """Do it, after what the stream has been told before."""
        if self._bias:
            self._problem.operation.set(BIAS_POINTER, self._bias)
        self._library.call("cublasLtMatmul", *self._arguments, stream.number)

    def clear(self, stream: Stream) -> None:
        """Write to the whole workspace."""
        address, size = self._arguments[-2:]
        stream.fill(address, 0, size)


def load_library() -> Any:
    """NVIDIA's library: of the package nvidia-cublas, of PyTorch's packages, or of a CUDA toolkit.

    Errors:
        MissingPackage: there is none.
    """
    for version in VERSIONS:
        name = f"libcublasLt.so.{version}"
        for path in [*_packaged(name), name]:
            try:
                return ctypes.CDLL(path)
            except OSError:
                continue
    raise MissingPackage("NVIDIA's cuBLAS", "cuda", "run engines of target cuda")


def _packaged(name: str) -> list[str]:
    """Where Python packages have put a library."""
    spec = find_spec("nvidia")
    folders = (spec.submodule_search_locations if spec else None) or ()
    return [str(path) for folder in folders for path in sorted(Path(folder).glob(f"*/lib/{name}"))]
