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
    Tanh,
    scalar,
    soft_cap,
    wide,
)  # fmt: skip
from trtc.ir.ops.norm import check_gain, narrowed, widened
from trtc.ir.types import TensorType, f32, i4, i8

ACTIVATIONS = ("", "silu", "gelu", "gelu_tanh", "relu")
GROUP = 128   # elements of a row that share a scale, where weights have 4 bits
PART = 16     # elements of a row whose squares are one sum


class FusedLinear(Op, name="cuda.fused_linear"):
    """``residual + x @ weight.T + bias``, or with an activation ``residual + activation(x @ g.T + c) * (x @ u.T + d)``.

    With squares, ``x @ weight.T / sqrt(sum(squares) / K + eps)`` takes the place of each ``x @ weight.T``.

    Operands:
        x: float[..., K]; with squares, the second result of cuda.linear_for_norm.
        weight: x's dtype, i8 or i4 [N, K]. With an activation its first N/2 rows are g, the others u.
        scales: x's dtype, by which integers are multiplied: [N] of i8, [N, K/128] of i4; none otherwise.
        bias: float[N], or none.
        residual: float of the result's type, or none.
        squares: f32[..., K/16], the third result of cuda.linear_for_norm, or none.
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
        scales = {i8: dtype[outer], i4: dtype[outer, inner // GROUP]}.get(self.weight.dtype)
        if scales:
            require(self.weight.dtype == i8 or inner % GROUP == 0, f"K is {inner}, but must be a multiple of {GROUP}")
            got = self.scales.type if self.scales else "absent"
            require(got == scales, f"scales is {got}, but must be {scales}")
        else:
            require(self.weight.dtype == dtype, f"weight is {self.weight.dtype}, but x is {dtype}")
            require(not self.scales, f"weight is {dtype}, but must be i8 or i4 where there are scales")
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

    def evaluate(
        self, x: Array, weight: Array, scales: Array | None, bias: Array | None, residual: Array | None,
        squares: Array | None,
    ) -> Array:   # fmt: skip
        w = wide(weight.astype(x.dtype))
        if scales is not None:
            w = w * (wide(scales)[:, None] if scales.ndim == 1 else np.repeat(wide(scales), GROUP, axis=1))
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
        weight = plain_weight(self.weight, self.scales) if self.scales else self.weight
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

    @property
    def product(self) -> FusedLinear:
        """What makes y alone."""
        return FusedLinear(self.x, self.weight, self.scales, self.bias, self.residual)

    def infer(self) -> tuple[TensorType, TensorType, TensorType]:
        y = self.product
        check_gain(y, "gain", self.gain, y.eps)
        return y.type, y.type, squares_of(y)

    def evaluate(
        self, x: Array, weight: Array, scales: Array | None, bias: Array | None, residual: Array, gain: Array
    ) -> tuple[Array, Array, Array]:
        y = self.product.evaluate(x, weight, scales, bias, residual, None)
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
        weight: i8 or i4 [N, K].
        scales: float: [N] of i8, [N, K/128] of i4.
    Result:
        float[N, K], of scales' dtype. It is computed when the engine runs, though it is a constant.
    """

    weight: Value
    scales: Value

    def infer(self) -> TensorType:
        x = Input("x", TensorType(self.scales.dtype, (1, *self.weight.shape[1:])))
        FusedLinear(x, self.weight, self.scales)   # which checks them
        return TensorType(self.scales.dtype, self.weight.shape)

    def evaluate(self, weight: Array, scales: Array) -> Array:
        each = wide(scales)[:, None] if scales.ndim == 1 else np.repeat(wide(scales), GROUP, axis=1)
        return (wide(weight.astype(scales.dtype)) * each).astype(scales.dtype)

    def decompose(self) -> Value:
        return plain_weight(self.weight, self.scales)


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


def plain_weight(weight: Value, scales: Value) -> Value:
    """Integers times their scales."""
    outer, inner = weight.shape
    assert isinstance(inner, int)
    groups = 1 if weight.dtype == i8 else inner // GROUP
    parts = Reshape(Cast(weight, scales.dtype), (outer, groups, inner // groups))
    return Reshape(Mul(parts, Reshape(scales, (outer, groups, 1))), (outer, inner))


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
