"""A dense layer with what stands before and after it: quantised weights, activation, residual."""

from __future__ import annotations

import numpy as np

from trtc.ir.graph import Graph
from trtc.ir.op import Array, Op, Value, require
from trtc.ir.ops import (
    GELU,
    Add,
    Cast,
    Constant,
    Div,
    Input,
    Linear,
    Mul,
    ReduceMean,
    ReduceSum,
    ReLU,
    Reshape,
    SiLU,
    Slice,
    Sqrt,
    Sub,
    Tanh,
    scalar,
    soft_cap,
    wide,
)  # fmt: skip
from trtc.ir.ops.norm import check_gain, narrowed, widened
from trtc.ir.types import TensorType, f8e4m3, f32, i4, i8

ACTIVATIONS = ("", "silu", "gelu", "gelu_tanh", "relu")
STORED = (i4, i8, f8e4m3)   # element types of a weight that has scales
PART = 16     # elements of a row whose squares are one sum


class FusedLinear(Op, name="cuda.fused_linear"):
    """``residual + x @ weight.T + bias``, or with an activation ``residual + activation(x @ g.T + c) * (x @ u.T + d)``.

    With squares, ``x @ weight.T / sqrt(sum(squares) / K + eps)`` takes the place of each ``x @ weight.T``.

    Operands:
        x: float[..., K]; with squares, the second result of cuda.linear_for_norm.
        weight: x's dtype, i8, i4 or f8e4m3 (without NaN) [N, K]. With an activation its first N/2 rows are g, the
            others u.
        scales: x's dtype, by which integers and 8-bit floats are multiplied: [N], or [N, K/g] for g elements of a row
            each; none otherwise.
        bias: float[N], or none.
        residual: float of the result's type, or none.
        squares: f32[..., K/16], the third result of cuda.linear_for_norm, or none.
        zeros: as scales, whole numbers that are subtracted from the integers before, from -8 to 8 of i4 and -128 to 128
            of i8; or none.
    Attributes:
        activation: silu, gelu (by erf), gelu_tanh or relu; empty for none.
        softcap: c, where what the residual is added to is ``c * tanh(y / c)`` instead of y; 0 for none.
        eps: as of rms_norm, where there are squares.
    Result:
        float[..., N], or float[..., N/2] with an activation. Sums and what follows are taken in f32.
    """

    x: Value
    weight: Value
    scales: Value | None = None
    bias: Value | None = None
    residual: Value | None = None
    squares: Value | None = None
    zeros: Value | None = None
    activation: str = ""
    softcap: float = 0.0
    eps: float = 1e-5

    def infer(self) -> TensorType:
        require(self.weight.type.rank == 2, f"weight has rank {self.weight.type.rank}, but must have rank 2")
        (outer, inner), dtype = self.weight.shape, self.x.dtype
        require(dtype.is_float, f"x is {dtype}, but must be a float")
        require(self.x.shape[-1] == inner, f"the last axis of x is {self.x.shape[-1]}, but the weight takes {inner}")
        require(isinstance(outer, int) and isinstance(inner, int), f"weight is {self.weight.type}, but must be static")
        assert isinstance(outer, int) and isinstance(inner, int)
        self._check_scales(outer, inner)
        if self.bias:
            require(self.bias.type == dtype[outer], f"bias is {self.bias.type}, but must be {dtype[outer]}")
        if self.squares:
            want = squares_of(self.x)
            require(self.squares.type == want, f"squares is {self.squares.type}, but must be {want}")
            require(self.eps > 0, f"eps is {self.eps:g}, but must be positive")
        known = self.activation in ACTIVATIONS
        require(known, f"activation is {self.activation}, but must be one of {', '.join(ACTIVATIONS[1:])}")
        require(self.softcap >= 0, f"softcap is {self.softcap:g}, but must not be negative")
        require(not self.activation or outer % 2 == 0, f"weight has {outer} rows, but must have an even number")
        made = TensorType(dtype, (*self.x.shape[:-1], outer // 2 if self.activation else outer))
        if self.residual:
            require(self.residual.type == made, f"residual is {self.residual.type}, but must be {made}")
        return made

    def _check_scales(self, outer: int, inner: int) -> None:
        dtype, stored, scales, zeros = self.x.dtype, self.weight.dtype, self.scales, self.zeros
        if stored not in STORED:
            require(stored == dtype, f"weight is {stored}, but x is {dtype}")
            plain = not scales and not zeros
            require(plain, f"weight is {stored}, but must be {', '.join(map(str, STORED))} where there are scales")
            return
        groups = scales.shape[1] if scales and scales.type.rank == 2 else 0
        want = dtype[outer, groups] if groups else dtype[outer]
        got = scales.type if scales else "absent"
        fits = got == want and isinstance(groups, int) and (not groups or inner % groups == 0)
        either = f"{dtype[outer]}, or {dtype}[{outer}, G] with G a divisor of {inner}"
        require(fits, f"scales is {got}, but must be {either}")
        if zeros:
            require(stored != f8e4m3, "weight is f8e4m3, but must be of integers where there are zeros")
            require(zeros.type == want, f"zeros is {zeros.type}, but must be {want}, as scales")

    @property
    def group(self) -> int:
        """How many elements of a row share a scale."""
        inner, scales = self.weight.shape[1], self.scales
        groups = scales.shape[1] if scales and scales.type.rank == 2 else 1
        assert isinstance(inner, int) and isinstance(groups, int)
        return inner // groups

    def evaluate(
        self, x: Array, weight: Array, scales: Array | None, bias: Array | None, residual: Array | None,
        squares: Array | None, zeros: Array | None,
    ) -> Array:   # fmt: skip
        w = wide(weight) if scales is None else in_full(weight, scales, zeros)
        y = np.matmul(wide(x), w.T)
        if squares is not None:
            y = y / np.sqrt(squares.sum(axis=-1, keepdims=True) / x.shape[-1] + y.dtype.type(self.eps))
        y = y if bias is None else y + wide(bias)
        if self.activation:
            half = y.shape[-1] // 2
            y = activated(self.activation, y[..., :half]) * y[..., half:]
        if self.softcap:
            cap = y.dtype.type(self.softcap)
            y = cap * np.tanh(y / cap)
        return (y if residual is None else wide(residual) + y).astype(x.dtype)

    def decompose(self) -> Value:
        weight = plain_weight(self.weight, self.scales, self.zeros) if self.scales else self.weight
        y: Value = Linear(self.x, weight, None if self.squares else self.bias)
        if self.squares:
            mean_square = Mul(ReduceMean(self.squares, self.squares.type.rank - 1), scalar(1 / PART, f32))
            y = narrowed(Div(widened(y), Sqrt(Add(mean_square, scalar(self.eps, f32)))), self.x)
            y = Add(y, self.bias) if self.bias else y
        if self.activation:
            last, half = y.type.rank - 1, self.type.shape[-1]
            assert isinstance(half, int)
            y = Mul(activation(self.activation, Slice(y, last, 0, half)), Slice(y, last, half, half))
        y = soft_cap(y, self.softcap) if self.softcap else y
        return Add(self.residual, y) if self.residual else y


class LinearForNorm(Op, name="cuda.linear_for_norm"):
    """``y = residual + x @ weight.T + bias``, and what products that read its rms_norm need: they are not made again.

        rms_norm(y, gain) @ w.T = (y * gain) @ w.T / sqrt(sum(y^2) / N + eps)

    Operands:
        x, weight, scales, bias, residual: as of cuda.fused_linear, N a multiple of 16; there must be a residual.
        gain: float[N], the weight of the rms_norm.
        zeros: as of cuda.fused_linear.
    Result:
        y, float[..., N]; ``y * gain`` of the same type; f32[..., N/16], the sums of y^2 of 16 elements each. The last
        two are of y as rounded.
    """

    x: Value
    weight: Value
    scales: Value | None
    bias: Value | None
    residual: Value
    gain: Value
    zeros: Value | None = None

    @property
    def product(self) -> FusedLinear:
        """What makes y alone."""
        return FusedLinear(self.x, self.weight, self.scales, self.bias, self.residual, zeros=self.zeros)

    def infer(self) -> tuple[TensorType, TensorType, TensorType]:
        y = self.product
        check_gain(y, "gain", self.gain, y.eps)
        return y.type, y.type, squares_of(y)

    def evaluate(
        self, x: Array, weight: Array, scales: Array | None, bias: Array | None, residual: Array, gain: Array,
        zeros: Array | None,
    ) -> tuple[Array, Array, Array]:   # fmt: skip
        y = self.product.evaluate(x, weight, scales, bias, residual, None, zeros)
        parts = np.square(wide(y)).reshape(*y.shape[:-1], -1, PART)
        return y, y * gain, parts.sum(axis=-1)

    def decompose(self) -> tuple[Value, ...]:
        y = self.product
        *rows, count = squares_of(y).shape
        own = Reshape(widened(y), (*rows, count, PART))
        return y, Mul(y, self.gain), Reshape(ReduceSum(Mul(own, own), own.type.rank - 1), (*rows, count))


def squares_of(x: Value) -> TensorType:
    """The type of the sums of x's squares, of 16 elements of a row each."""
    *rows, width = x.shape
    assert isinstance(width, int)
    require(width % PART == 0, f"a row has {width} elements, but must have a multiple of {PART}")
    return TensorType(f32, (*rows, width // PART))


class Dequantize(Op, name="cuda.dequantize"):
    """The weight of ``cuda.fused_linear`` in full: what products of many rows read.

    Operands:
        weight, scales, zeros: as of cuda.fused_linear, scales of any float.
    Result:
        float[N, K], of scales' dtype. It is computed when the engine runs, though it is a constant.
    """

    weight: Value
    scales: Value
    zeros: Value | None = None

    @property
    def product(self) -> FusedLinear:
        """A product by it."""
        x = Input("x", TensorType(self.scales.dtype, (1, *self.weight.shape[1:])))
        return FusedLinear(x, self.weight, self.scales, zeros=self.zeros)

    def infer(self) -> TensorType:
        return TensorType(self.scales.dtype, self.product.weight.shape)

    def evaluate(self, weight: Array, scales: Array, zeros: Array | None) -> Array:
        return in_full(weight, scales, zeros).astype(scales.dtype)

    def decompose(self) -> Value:
        return plain_weight(self.weight, self.scales, self.zeros)


class Gated(Op, name="cuda.gated"):
    """``activation(x[..., :I]) * x[..., I:]``.

    Operands:
        x: float[..., 2 * I].
    Attributes:
        activation: as of cuda.fused_linear.
    Result:
        float[..., I], of x's dtype. Computed in f32.
    """

    x: Value
    activation: str = "silu"

    def infer(self) -> TensorType:
        width = self.x.shape[-1] if self.x.shape else 0
        require(self.x.dtype.is_float, f"x is {self.x.dtype}, but must be a float")
        require(isinstance(width, int) and width % 2 == 0, f"the last axis of x is {width}, but must be even")
        known = self.activation in ACTIVATIONS[1:]
        require(known, f"activation is {self.activation}, but must be one of {', '.join(ACTIVATIONS[1:])}")
        assert isinstance(width, int)
        return TensorType(self.x.dtype, (*self.x.shape[:-1], width // 2))

    def evaluate(self, x: Array) -> Array:
        half = x.shape[-1] // 2
        return (activated(self.activation, wide(x[..., :half])) * wide(x[..., half:])).astype(x.dtype)

    def decompose(self) -> Value:
        last, half = self.x.type.rank - 1, self.type.shape[-1]
        assert isinstance(half, int)
        return Mul(activation(self.activation, Slice(self.x, last, 0, half)), Slice(self.x, last, half, half))


def plain_weight(weight: Value, scales: Value, zeros: Value | None) -> Value:
    """What is stored, less its zeros, times its scales."""
    (outer, inner), groups = weight.shape, scales.shape[1] if scales.type.rank == 2 else 1
    assert isinstance(inner, int) and isinstance(groups, int)
    parts: Value = Reshape(Cast(weight, scales.dtype), (outer, groups, inner // groups))
    parts = Sub(parts, Reshape(zeros, (outer, groups, 1))) if zeros else parts
    return Reshape(Mul(parts, Reshape(scales, (outer, groups, 1))), (outer, inner))


def in_full(weight: Array, scales: Array, zeros: Array | None) -> Array:
    """The same of arrays, not rounded to scales' type."""
    parts = wide(weight.astype(scales.dtype)).reshape(len(weight), scales.size // len(weight), -1)
    if zeros is not None:
        parts = parts - wide(zeros).reshape(*parts.shape[:2], 1)
    return (parts * wide(scales).reshape(*parts.shape[:2], 1)).reshape(weight.shape)


def activation(name: str, x: Value) -> Op:
    """The op of an activation's name."""
    match name:
        case "silu":
            return SiLU(x)
        case "relu":
            return ReLU(x)
        case _:
            return GELU(x, tanh=name == "gelu_tanh")


def activated(name: str, x: Array) -> Array:
    """An activation of an array, in the array's own precision."""
    return activation(name, Input("x", f32[1,])).evaluate(x)


def capped_linear(op: Mul, graph: Graph) -> Value | None:
    """tanh(linear(x, w) * (1 / c)) * c  ->  fused_linear(x, w, softcap = c)"""
    match op.a, op.b:
        case Tanh(Mul(Linear(x, weight, bias) as linear, Constant((less,)))), Constant((cap,)):
            pass
        case _:
            return None
    number = float(cap)
    fits = number > 0 and abs(number * float(less) - 1) < 1e-2   # both as rounded to the type
    if not fits or len(graph.users[linear]) > 1 or not graph.is_constant(weight):
        return None
    return FusedLinear(x, weight, None, bias, softcap=number, loc=linear.loc)
