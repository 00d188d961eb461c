"""Products by cuBLASLt: what the library is told is the product of NumPy; the calls are those of the real library."""

from __future__ import annotations

import ctypes

import pytest
from fake_cublas import FakeCublas
from fake_cuda import FakeDriver
from product_cases import NUMPY, ProductCase

from trtc.errors import MissingPackage
from trtc.runtime.cuda import cublaslt
from trtc.runtime.cuda.cublaslt import CublasLt, Matmul, Operands, load_library
from trtc.runtime.gpu.device import open_device
from trtc.runtime.gpu.driver import open_driver
from trtc.runtime.gpu.stream import Stream


@pytest.mark.parametrize("dtype", NUMPY)
@pytest.mark.parametrize("given", ["", "bias", "residual", "bias residual"])
def test_products_are_those_of_numpy(dtype: str, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = FakeDriver()
    monkeypatch.setattr(cublaslt, "load_library", lambda: FakeCublas(driver))
    device = open_device(on=open_driver(driver))
    stream, library = Stream(device), CublasLt(device)
    case = ProductCase(device, (5, 7, 3), dtype, given)
    assert case.operands.alignment == 256
    problem = library.problem(case.shape)
    (algorithm,) = library.candidates(case.shape, problem, 8)
    Matmul(library, case.shape, problem, algorithm, case.operands).enqueue(stream)
    stream.synchronize()
    case.check()


def test_the_address_that_is_least_aligned_counts() -> None:
    assert Operands(x=0x1010, weight=0x2000, y=0x3008, workspace=0x4000).alignment == 8
    assert Operands(x=0x1000, weight=0x2000, y=0x3000, workspace=0x4000, bias=0x5002).alignment == 2
    assert Operands(x=0x1000, weight=0x2000, y=0x3000, workspace=0x4000).alignment == 256


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
    preferences = (
        (cublaslt.WORKSPACE, ctypes.c_uint64(64)), (cublaslt.REDUCTION, ctypes.c_uint32(cublaslt.REDUCE_F32)),
        (cublaslt.FIRST_ALIGNMENT, ctypes.c_uint32(16)),
    )   # fmt: skip
    for attribute, number in preferences:
        size = ctypes.sizeof(number)
        assert not library.cublasLtMatmulPreferenceSetAttribute(made, attribute, ctypes.byref(number), size)
