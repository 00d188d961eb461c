"""A stand-in for cuBLASLt's C library: the calls of `trtc.runtime.cuda.cublaslt`, over NumPy and the host's memory."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
from fake_cuda import FakeDriver

TYPES: dict[int, Any] = {0: np.float32, 2: np.float16, 14: ml_dtypes.bfloat16}
SUCCESS, NOT_INITIALIZED, INVALID_VALUE, NOT_SUPPORTED = 0, 1, 7, 15


@dataclass
class Object:
    """A descriptor: what it was created with, and its attributes' bytes."""

    arguments: tuple[int, ...]
    attributes: dict[int, bytes] = field(default_factory=dict[int, bytes])

    def number(self, attribute: int, default: int = 0) -> int:
        return int.from_bytes(self.attributes.get(attribute, default.to_bytes(8, "little")), "little")


class Function:
    """A function of the library, whose types may be set, and which ctypes converts arguments for."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call
        self.argtypes: list[Any] | None = None
        self.restype: Any = ctypes.c_int

    def __call__(self, *arguments: Any) -> Any:
        if self.argtypes is not None:
            assert len(arguments) == len(self.argtypes)
            held = [t.from_param(a) for t, a in zip(self.argtypes, arguments, strict=True)]
            arguments = tuple(_number(a) for a in held)
        return self._call(*arguments)


def _number(argument: Any) -> Any:
    """The number that C would be given."""
    if hasattr(argument, "_obj"):   # by reference
        return ctypes.addressof(argument._obj)
    value = getattr(argument, "value", argument)
    return 0 if value is None else value


class FakeCublas:
    """The library on the GPU of a stand-in for the driver, whose streams do the products.

    Args:
        status: what starting it gives.
        algorithms: how many it knows for a product.
    """

    def __init__(self, driver: FakeDriver, status: int = SUCCESS, algorithms: int = 1) -> None:
        self.driver, self.status, self.algorithms = driver, status, algorithms
        self.objects: dict[int, Object] = {}
        self.asked = 0   # for algorithms
        self._functions: dict[str, Function] = {}

    def __getattr__(self, name: str) -> Function:
        if not name.startswith("cublasLt"):
            raise AttributeError(name)
        if name not in self._functions:
            for end in ("Create", "Destroy", "SetAttribute"):
                if name != f"cublasLt{end}" and name.endswith(end):
                    self._functions[name] = Function(getattr(self, f"_{end}"))
                    break
            else:
                self._functions[name] = Function(getattr(self, f"_{name}"))
        return self._functions[name]

    def _cublasLtGetVersion(self) -> int:
        return 130100

    def _cublasLtGetStatusString(self, status: int) -> bytes:
        return {1: b"the library was not initialized", 15: b"the requested functionality is not supported"}[status]

    def _cublasLtCreate(self, handle: int) -> int:
        ctypes.c_uint64.from_address(handle).value = 77
        return self.status

    def _cublasLtDestroy(self, handle: Any) -> int:
        return SUCCESS

    def _Create(self, made: int, *arguments: int) -> int:
        key = 1000 + len(self.objects)
        self.objects[key] = Object(arguments)
        ctypes.c_uint64.from_address(made).value = key
        return SUCCESS

    def _Destroy(self, key: int) -> int:
        self.objects[key].attributes.clear()
        return SUCCESS

    def _SetAttribute(self, key: int, attribute: int, value: int, size: int) -> int:
        self.objects[key].attributes[attribute] = ctypes.string_at(value, size)
        return SUCCESS

    def _cublasLtMatmulAlgoGetHeuristic(
        self, handle: int, operation: int, a: int, b: int, c: int, d: int, preference: int, wanted: int, found: int,
        count: int,
    ) -> int:   # fmt: skip
        assert handle == 77 and self.objects[operation].arguments == (68, 0)
        assert self.objects[preference].number(1) > 0
        self.asked += 1
        ctypes.c_int.from_address(count).value = self.algorithms
        ctypes.c_uint64.from_address(found).value = 4242
        return SUCCESS if self.algorithms else NOT_SUPPORTED

    def _cublasLtMatmul(
        self, handle: int, operation: int, alpha: int, a: int, a_of: int, b: int, b_of: int, beta: int, c: int,
        c_of: int, d: int, d_of: int, algorithm: int, workspace: int, size: int, stream: int,
    ) -> int:   # fmt: skip
        assert handle == 77 and ctypes.c_uint64.from_address(algorithm).value == 4242
        self.driver.check(workspace, size)
        scales = [ctypes.c_float.from_address(address).value for address in (alpha, beta)]
        does = Object((), dict(self.objects[operation].attributes))   # as they are now

        def work() -> None:
            left, right, added = self._matrix(a, a_of), self._matrix(b, b_of), self._matrix(c, c_of)
            left, right = (m.T if does.number(which) else m for m, which in ((left, 3), (right, 4)))
            made = scales[0] * (left.astype(np.float32) @ right.astype(np.float32))
            if scales[1]:
                made += scales[1] * added.astype(np.float32)
            target = self._matrix(d, d_of)
            if does.number(7, 1) == 4:   # a bias, of each row
                made += self._vector(does.number(8), len(made), target.dtype).astype(np.float32)[:, None]
            target[...] = made

        self.driver.stream(stream).add(work)
        return SUCCESS

    def _matrix(self, address: int, key: int) -> Any:
        """A matrix that is stored by columns."""
        kind, rows, columns, step = self.objects[key].arguments
        return self._vector(address, step * columns, np.dtype(TYPES[kind])).reshape(columns, step)[:, :rows].T

    def _vector(self, address: int, count: int, dtype: Any) -> Any:
        size = count * dtype.itemsize
        self.driver.check(address, size)
        return np.frombuffer((ctypes.c_byte * size).from_address(address), np.uint8).view(dtype)
