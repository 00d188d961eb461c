"""Products by cuBLASLt: what the library is told is the product of NumPy; the calls are those of the real library."""

from __future__ import annotations

import ctypes
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from fake_cublas import FakeCublas
from fake_cuda import FakeDriver

from trtc.errors import MissingPackage
from trtc.runtime.cuda import cublaslt
from trtc.runtime.cuda.cublaslt import CublasLt, Operands, Shape, load_library
from trtc.runtime.gpu.device import open_device
from trtc.runtime.gpu.driver import open_driver
from trtc.runtime.gpu.memory import Arena, MemoryPlan
from trtc.runtime.gpu.stream import Stream

NUMPY: dict[str, Any] = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}


def put(address: int, array: np.ndarray[Any, Any]) -> None:
    ctypes.memmove(address, np.ascontiguousarray(array).ctypes.data, array.nbytes)


@pytest.mark.parametrize("dtype", NUMPY)
@pytest.mark.parametrize("given", ["", "bias", "residual", "bias residual"])
def test_products_are_those_of_numpy(dtype: str, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = FakeDriver()
    monkeypatch.setattr(cublaslt, "load_library", lambda: FakeCublas(driver))
    device = open_device(on=open_driver(driver))
    stream, library = Stream(device), CublasLt(device)
    (m, n, k), random = (5, 7, 3), np.random.default_rng(0)
    shapes = {"x": (m, k), "weight": (n, k), "y": (m, n), "workspace": (64,), "bias": (n,), "residual": (m, n)}
    shapes = {name: s for name, s in shapes.items() if name in ("x", "weight", "y", "workspace", *given.split())}
    arrays = {name: random.standard_normal(s).astype(NUMPY[dtype]) for name, s in shapes.items()}
    arena = Arena(device, MemoryPlan({name: a.nbytes for name, a in arrays.items()}))
    for name, array in arrays.items():
        put(arena[name], array)
    operands = Operands(**{name: arena[name] for name in arrays})
    assert operands.alignments == (256, 256, 256, 256, 256 if "bias" in given else 0)
    shape = Shape(m, n, k, dtype, "residual" in given, 64, operands.alignments)
    library.matmul(shape, operands).enqueue(stream)
    library.matmul(shape, operands).enqueue(stream)
    stream.synchronize()
    wide = {name: array.astype(np.float64) for name, array in arrays.items()}
    want = wide["x"] @ wide["weight"].T + wide.get("bias", 0) + wide.get("residual", 0)
    got = np.frombuffer(ctypes.string_at(arena["y"], arrays["y"].nbytes), NUMPY[dtype]).reshape(m, n)
    error = {"f32": 2**-23, "f16": 2**-10, "bf16": 2**-7}[dtype]
    np.testing.assert_allclose(got.astype(np.float64), want, rtol=2 * error, atol=2 * error)
    assert library.library.asked == 1, "an algorithm is asked for once"


def test_an_address_that_is_less_aligned_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Operands(x=0x1010, weight=0x2000, y=0x3008, workspace=0x4000).alignments == (256, 16, 8, 8, 0)


def test_the_real_library_has_the_calls() -> None:
    """Descriptors and their attributes need no GPU."""
    try:
        library = load_library()
    except MissingPackage as error:
        pytest.skip(str(error))
    made, value = ctypes.c_void_p(), ctypes.c_int32(cublaslt.TRANSPOSED)
    for name, arguments in cublaslt.SIGNATURES.items():
        getattr(library, name).argtypes = arguments
    assert not library.cublasLtMatmulDescCreate(ctypes.byref(made), cublaslt.COMPUTE_32F, 0)
    for attribute in (cublaslt.TRANSA, cublaslt.EPILOGUE):
        assert not library.cublasLtMatmulDescSetAttribute(made, attribute, ctypes.byref(value), 4)
    address = ctypes.c_void_p(256)
    assert not library.cublasLtMatmulDescSetAttribute(made, cublaslt.BIAS_POINTER, ctypes.byref(address), 8)
    assert not library.cublasLtMatmulPreferenceCreate(ctypes.byref(made))
    preferences = (cublaslt.WORKSPACE, ctypes.c_uint64(64)), (cublaslt.FIRST_ALIGNMENT, ctypes.c_uint32(16))
    for attribute, number in preferences:
        size = ctypes.sizeof(number)
        assert not library.cublasLtMatmulPreferenceSetAttribute(made, attribute, ctypes.byref(number), size)
