"""A stand-in for cuBLASLt's C library: the calls of `trtc.runtime.cuda.cublaslt`, over NumPy and the host's memory."""

from __future__ import annotations

import ctypes
import re
import traceback
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
from fake_cuda import FakeDriver

from trtc.runtime.cuda.cublaslt import SIGNATURES, Algorithm

TYPES: dict[int, Any] = {0: np.float32, 2: np.float16, 14: ml_dtypes.bfloat16}
SUCCESS, NOT_INITIALIZED, INTERNAL_ERROR, NOT_SUPPORTED = 0, 1, 14, 15
FIRST, LAST = 4242, 2424   # what algorithms are made of
SAID = {
    NOT_INITIALIZED: b"the library was not initialized", INTERNAL_ERROR: b"an internal operation failed",
    NOT_SUPPORTED: b"the requested functionality is not supported",
}   # fmt: skip


@dataclass
class Object:
    """A descriptor: what it was created with, and its attributes' bytes."""

    arguments: tuple[int, ...]
    attributes: dict[int, bytes] = field(default_factory=dict[int, bytes])

    def number(self, attribute: int, default: int = 0) -> int:
        return int.from_bytes(self.attributes.get(attribute, default.to_bytes(8, "little")), "little")


def c_function(name: str, call: Callable[..., Any]) -> Any:
    """A function that ctypes calls as it would C's; what it raises is printed, and a status."""

    def checked(*arguments: Any) -> int:
        try:
            return call(*(argument or 0 for argument in arguments))
        except Exception:
            traceback.print_exc()
            return INTERNAL_ERROR

    return ctypes.CFUNCTYPE(ctypes.c_int, *SIGNATURES[name])(checked)


class FakeCublas:
    """The library on the GPU of a stand-in for the driver, whose streams do the products.

    Args:
        status: what starting it gives.
        algorithms: how many it knows for a product.
        version: as the library gives it.
        times: milliseconds that a product takes by each algorithm.
        refuses: the numbers of algorithms that it gives, but neither checks nor runs.
    """

    def __init__(
        self, driver: FakeDriver, status: int = SUCCESS, algorithms: int = 1, version: int = 130100,
        times: Sequence[float] = (), refuses: Set[int] = frozenset(),
    ) -> None:   # fmt: skip
        self.driver, self.status, self.algorithms = driver, status, algorithms
        self.times, self.refuses = times or (0.0,) * algorithms, refuses
        self.objects: dict[int, Object] = {}
        self.asked = 0              # for algorithms
        self.told = list[int]()     # the number of the algorithm of each product
        for name in SIGNATURES:
            part = re.fullmatch(r"cublasLt\w+?(Create|Destroy|SetAttribute)", name)
            setattr(self, name, c_function(name, getattr(self, f"_{part[1] if part else name}")))
        self.cublasLtGetVersion = ctypes.CFUNCTYPE(ctypes.c_size_t)(lambda: version)
        self.cublasLtGetStatusString = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_int)(self._said)

    def _said(self, status: int) -> int:
        """Where a status is described; ctypes takes an address as the text."""
        self.text = ctypes.create_string_buffer(SAID[status])
        return ctypes.addressof(self.text)

    def _cublasLtCreate(self, handle: int) -> int:
        ctypes.c_uint64.from_address(handle).value = 77
        return self.status

    def _cublasLtDestroy(self, handle: int) -> int:
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
        assert self.objects[preference].number(1) > 0 and self.objects[preference].number(3) == 2
        self.asked += 1
        given = min(wanted, self.algorithms)
        ctypes.c_int.from_address(count).value = given
        for number, algorithm in enumerate((Algorithm * given).from_address(found)):
            algorithm.opaque[0], algorithm.opaque[7] = FIRST + number, LAST
        return SUCCESS if self.algorithms else NOT_SUPPORTED

    def _cublasLtMatmulAlgoCheck(
        self, handle: int, operation: int, a: int, b: int, c: int, d: int, algorithm: int, needs: int
    ) -> int:
        assert handle == 77 and self.objects[operation].arguments == (68, 0)
        if self._number(algorithm) in self.refuses:
            return NOT_SUPPORTED
        Algorithm.from_address(needs).workspace = 32
        return SUCCESS

    @staticmethod
    def _number(algorithm: int) -> int:
        """An algorithm's number, from its address."""
        opaque = Algorithm.from_address(algorithm).opaque
        assert opaque[7] == LAST
        return opaque[0] - FIRST

    def _cublasLtMatmul(
        self, handle: int, operation: int, alpha: int, a: int, a_of: int, b: int, b_of: int, beta: int, c: int,
        c_of: int, d: int, d_of: int, algorithm: int, workspace: int, size: int, stream: int,
    ) -> int:   # fmt: skip
        assert handle == 77
        self.driver.check(workspace, size)
        self.told.append(number := self._number(algorithm))
        if number in self.refuses:
            return NOT_SUPPORTED
        scales = [ctypes.c_float.from_address(address).value for address in (alpha, beta)]
        does = Object((), dict(self.objects[operation].attributes))   # as they are now

        def work() -> None:
            left, right, added = self._matrix(a, a_of), self._matrix(b, b_of), self._matrix(c, c_of)
            left, right = (m.T if does.number(which) else m for m, which in ((left, 3), (right, 4)))
            with np.errstate(all="ignore"):   # of what is in memory before it is written
                made = scales[0] * (left.astype(np.float32) @ right.astype(np.float32))
            if scales[1]:
                made += scales[1] * added.astype(np.float32)
            target = self._matrix(d, d_of)
            if does.number(7, 1) == 4:   # a bias, of each row
                made += self._vector(does.number(8), len(made), target.dtype).astype(np.float32)[:, None]
            target[...] = made
            self.driver.clock += self.times[number]

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
