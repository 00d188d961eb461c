"""Products and what stands beside them, with random tensors; they join the cases of kernel_cases.py once imported."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from kernel_cases import MAKES, Case, Maker, Random

from trtc.backend.kernels import ops as fused
from trtc.ir import ops
from trtc.ir.ops import Input
from trtc.ir.types import DType, TensorType, f32, i4, i8


def linear(rng: Random, dtype: DType) -> Case:
    outer, inner, rows = int(rng.choice((1, 40, 128))), int(rng.choice((32, 52, 288, 4096))), int(rng.integers(1, 20))
    make = Maker(rng, B=rows)
    x = make.floats("x", dtype[rows if rng.random() < 0.5 else "B", 1, inner])
    weight = make.floats("weight", dtype[outer, inner], inner**-0.5)
    return make.case(ops.Linear(x, weight, make.floats("bias", dtype[outer,]) if rng.random() < 0.5 else None))


def weights(make: Maker, dtype: DType, outer: int, inner: int, stored: DType | None) -> tuple[Input, Input | None]:
    """Those of a product, and the scales of integers; what it makes is about 1."""
    if stored is None:
        return make.floats("weight", dtype[outer, inner], inner**-0.5), None
    weight = make.integers("weight", stored[outer, inner], *((-128, 127) if stored == i8 else (-8, 7)))
    shape = (outer,) if stored == i8 else (outer, inner // 128)
    sizes = (1 + make.rng.random(shape)) * inner**-0.5 / (64 if stored == i8 else 4)
    return weight, make.given("scales", TensorType(dtype, shape), sizes.astype(dtype.numpy))


def fused_linear(stored: DType | None = None, squared: bool = False) -> Callable[[Random, DType], Case]:
    def made(rng: Random, dtype: DType) -> Case:
        outer, inner, rows = int(rng.choice((2, 40, 288))), int(rng.choice((128, 512, 4096))), int(rng.integers(1, 20))
        activation = str(rng.choice(("", "silu", "gelu", "gelu_tanh", "relu")))
        make = Maker(rng, B=rows)
        batch = rows if rng.random() < 0.5 else "B"
        x, squares, eps = make.floats("x", dtype[batch, 1, inner]), None, 1e-5
        if squared:
            sizes = rng.chisquare(16, (rows, 1, inner // 16)) * rng.uniform(0.1, 10, (rows, 1, 1))
            squares = make.given("squares", f32[batch, 1, inner // 16], sizes.astype(np.float32))
            eps = float(rng.choice((1e-5, 0.3)))
        weight, scales = weights(make, dtype, outer, inner, stored)
        columns = outer // 2 if activation else outer
        return make.case(fused.FusedLinear(
            x, weight, scales,
            make.floats("bias", dtype[outer,]) if rng.random() < 0.5 else None,
            make.floats("residual", dtype[batch, 1, columns]) if rng.random() < 0.5 else None,
            squares, activation, float(rng.choice((0, 0, 2))), eps,
        ))   # fmt: skip

    return made


def linear_for_norm(stored: DType | None = None) -> Callable[[Random, DType], Case]:
    def made(rng: Random, dtype: DType) -> Case:
        outer, inner, rows = int(rng.choice((16, 48, 288))), int(rng.choice((128, 512, 4096))), int(rng.integers(1, 20))
        make = Maker(rng, B=rows)
        batch = rows if rng.random() < 0.5 else "B"
        weight, scales = weights(make, dtype, outer, inner, stored)
        return make.case(fused.LinearForNorm(
            make.floats("x", dtype[batch, 1, inner]), weight, scales,
            make.floats("bias", dtype[outer,]) if rng.random() < 0.5 else None,
            make.floats("residual", dtype[batch, 1, outer]), make.floats("gain", dtype[outer,]),
        ))   # fmt: skip

    return made


def gated(rng: Random, dtype: DType) -> Case:
    make = Maker(rng, B=int(rng.integers(1, 5)))
    x = make.floats("x", dtype["B", 3, 2 * int(rng.choice((1, 12, 512, 14336)))])
    return make.case(fused.Gated(x, activation=str(rng.choice(("silu", "gelu", "gelu_tanh", "relu")))))


def swiglu(rng: Random, dtype: DType) -> Case:
    make = Maker(rng, B=int(rng.integers(1, 5)))
    of = dtype["B", 3, int(rng.choice((1, 12, 512)))]
    return make.case(ops.SwiGLU(make.floats("gate", of), make.floats("up", of)))


MAKES.update({
    "linear": linear,
    "fused_linear": fused_linear(),
    "fused_linear, i8": fused_linear(i8),
    "fused_linear, i4": fused_linear(i4),
    "fused_linear, squares": fused_linear(squared=True),
    "fused_linear, squares, i8": fused_linear(i8, squared=True),
    "fused_linear, squares, i4": fused_linear(i4, squared=True),
    "linear_for_norm": linear_for_norm(),
    "linear_for_norm, i8": linear_for_norm(i8),
    "linear_for_norm, i4": linear_for_norm(i4),
    "gated": gated,
    "swiglu": swiglu,
})
