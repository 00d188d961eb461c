"""Products in a GPU's memory, and what NumPy makes of them."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from trtc.runtime.cuda.cublaslt import Operands, Shape
from trtc.runtime.gpu.device import Device
from trtc.runtime.gpu.memory import Arena, MemoryPlan

NUMPY: dict[str, Any] = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}
ERRORS = {"f32": 2**-23, "f16": 2**-10, "bf16": 2**-7}


@dataclass
class ProductCase:
    """One product of random numbers.

    Args:
        sizes: m, n, k.
        given: what it has besides: ``bias``, ``residual``.
    """

    device: Device
    sizes: tuple[int, int, int]
    dtype: str = "f32"
    given: str = ""

    def __post_init__(self) -> None:
        (m, n, k), random = self.sizes, np.random.default_rng(0)
        shapes = {"x": (m, k), "weight": (n, k), "y": (m, n), "workspace": (64,), "bias": (n,), "residual": (m, n)}
        names = [name for name in shapes if name in ("x", "weight", "y", "workspace", *self.given.split())]
        self.arrays = {name: random.standard_normal(shapes[name]).astype(NUMPY[self.dtype]) for name in names}
        self._arena = Arena(self.device, MemoryPlan({name: a.nbytes for name, a in self.arrays.items()}))
        for name, array in self.arrays.items():
            ctypes.memmove(self._arena[name], np.ascontiguousarray(array).ctypes.data, array.nbytes)
        self.operands = Operands(**{name: self._arena[name] for name in names})
        has_bias, has_residual = "bias" in names, "residual" in names
        self.shape = Shape(*self.sizes, self.dtype, has_bias, has_residual, 64, self.operands.alignment)

    def check(self) -> None:
        """Compare y, now that it is done, with NumPy's."""
        wide = {name: array.astype(np.float64) for name, array in self.arrays.items()}
        want = wide["x"] @ wide["weight"].T + wide.get("bias", 0) + wide.get("residual", 0)
        bytes_of_y = ctypes.string_at(self._arena["y"], self.arrays["y"].nbytes)
        got = np.frombuffer(bytes_of_y, NUMPY[self.dtype]).reshape(want.shape).astype(np.float64)
        error = self.sizes[-1] * ERRORS[self.dtype]
        np.testing.assert_allclose(got, want, rtol=error, atol=error)
