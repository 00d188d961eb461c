"""Products and what stands beside them, with random tensors; they join the cases of kernel_cases.py once imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from kernel_cases import MAKES, Case, Maker, Random

from trtc.backend.kernels import ops as fused
from trtc.ir import ops
from trtc.ir.ops import Input
from trtc.ir.types import DType, TensorType, f8e4m3, f32, i4, i8


def linear(rng: Random, dtype: DType) -> Case:
    outer, inner, rows = int(rng.choice((1, 40, 128))), int(rng.choice((32, 52, 288, 4096))), int(rng.integers(1, 20))
    make = Maker(rng, B=rows)
    x = make.floats("x", dtype[rows if rng.random() < 0.5 else "B", 1, inner])
    weight = make.floats("weight", dtype[outer, inner], inner**-0.5)
    return make.case(ops.Linear(x, weight, make.floats("bias", dtype[outer,]) if rng.random() < 0.5 else None))


class Stored(NamedTuple):
    """How a weight is stored."""

    dtype: DType
    groups: tuple[int, ...] = (0,)   # of elements of a row that share a scale, one of them to be drawn; 0 for a row
    zeros: bool = False


LOWEST: dict[DType, int] = {i8: -128, i4: -8}
I8, I4, F8 = Stored(i8), Stored(i4, (128,)), Stored(f8e4m3, (0, 128, 32))
I4_ZEROS, I4_GROUPS, I8_GROUPS = Stored(i4, (0, 128), True), Stored(i4, (32, 64, 256)), Stored(i8, (16, 32, 128), True)


def weights(
    make: Maker, dtype: DType, outer: int, inner: int, how: Stored | None
) -> tuple[Input, Input | None, Input | None]:
    """Those of a product, with their scales and zeros; what it makes is about 1."""
    if how is None:
        return make.floats("weight", dtype[outer, inner], inner**-0.5), None, None
    group = int(make.rng.choice([g for g in how.groups if inner % (g or 1) == 0]))
    low, shape = LOWEST.get(how.dtype, 0), (outer, inner // group) if group else (outer,)
    of = how.dtype[outer, inner]
    if low:
        weight = make.integers("weight", of, low, -1 - low)
    else:
        numbers = make.rng.integers(0, 256, (outer, inner)).astype(np.uint8)
        numbers[numbers & 127 == 127] = 0   # NaN
        weight = make.given("weight", of, numbers.view(how.dtype.numpy))
    sizes = (1 + make.rng.random(shape)) * inner**-0.5 / (-low / 2 if low else 128)
    scales = make.given("scales", TensorType(dtype, shape), sizes.astype(dtype.numpy))
    return weight, scales, make.integers("zeros", TensorType(dtype, shape), low, -low) if how.zeros else None


def fused_linear(stored: Stored | None = None, squared: bool = False) -> Callable[[Random, DType], Case]:
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
        weight, scales, zeros = weights(make, dtype, outer, inner, stored)
        columns = outer // 2 if activation else outer
        return make.case(fused.FusedLinear(
            x, weight, scales,
            make.floats("bias", dtype[outer,]) if rng.random() < 0.5 else None,
            make.floats("residual", dtype[batch, 1, columns]) if rng.random() < 0.5 else None,
            squares, zeros, activation, float(rng.choice((0, 0, 2))), eps,
        ))   # fmt: skip

    return made


def linear_for_norm(stored: Stored | None = None) -> Callable[[Random, DType], Case]:
    def made(rng: Random, dtype: DType) -> Case:
        outer, inner, rows = int(rng.choice((16, 48, 288))), int(rng.choice((128, 512, 4096))), int(rng.integers(1, 20))
        make = Maker(rng, B=rows)
        batch = rows if rng.random() < 0.5 else "B"
        weight, scales, zeros = weights(make, dtype, outer, inner, stored)
        return make.case(fused.LinearForNorm(
            make.floats("x", dtype[batch, 1, inner]), weight, scales,
            make.floats("bias", dtype[outer,]) if rng.random() < 0.5 else None,
            make.floats("residual", dtype[batch, 1, outer]), make.floats("gain", dtype[outer,]), zeros,
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
    "fused_linear, i8": fused_linear(I8),
    "fused_linear, i4": fused_linear(I4),
    "fused_linear, i4, zeros": fused_linear(I4_ZEROS),
    "fused_linear, i4, groups": fused_linear(I4_GROUPS),
    "fused_linear, i8, groups": fused_linear(I8_GROUPS),
    "fused_linear, f8": fused_linear(F8),
    "fused_linear, squares": fused_linear(squared=True),
    "fused_linear, squares, i8": fused_linear(I8, squared=True),
    "fused_linear, squares, i4": fused_linear(I4, squared=True),
    "linear_for_norm": linear_for_norm(),
    "linear_for_norm, i8": linear_for_norm(I8),
    "linear_for_norm, i4": linear_for_norm(I4),
    "linear_for_norm, i4, zeros": linear_for_norm(I4_ZEROS),
    "gated": gated,
    "swiglu": swiglu,
})
