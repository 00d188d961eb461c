"""One kernel for every op whose elements are made one by one: arithmetic, casts, moves, look-ups.

The launch rule writes what an element is made of as CUDA C++, into a define.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from trtc.backend.kernels.indexing import Sizes, collapsed
from trtc.backend.kernels.kernel import kernel
from trtc.backend.kernels.launch import Launch, Pointer, Scalar, ceildiv, operand, product, result
from trtc.backend.kernels.ops import Dequantize
from trtc.backend.kernels.rules import fixed
from trtc.ir.op import Op, Value
from trtc.ir.ops import (
    GELU,
    Add,
    And,
    Broadcast,
    Cast,
    Concat,
    Constant,
    Cos,
    Div,
    Erf,
    Exp,
    Gather,
    Iota,
    Less,
    LessEqual,
    Maximum,
    Minimum,
    Mul,
    Neg,
    Pow,
    Reciprocal,
    ReLU,
    Rope,
    Sigmoid,
    SiLU,
    Sin,
    SizeOf,
    Slice,
    Sqrt,
    Sub,
    Tanh,
    Transpose,
    Where,
)  # fmt: skip
from trtc.ir.types import DType, Size, bf16, bool_, f8e4m3, f16, f32, i4, i8, i32, i64, u8

C_TYPES: Mapping[DType, str] = {
    f32: "f32", f16: "f16", bf16: "bf16", i8: "i8", u8: "u8", bool_: "u8", i32: "i32", i64: "i64",
}   # fmt: skip
THREADS = 256
EACH = 4   # elements of a thread: with one, blocks come and go more slowly than memory answers
FORMULAS: Mapping[type[Op], str] = {
    Add: "{0} + {1}", Sub: "{0} - {1}", Mul: "{0} * {1}", Div: "{0} / {1}", Pow: "powf({0}, {1})",
    Maximum: "greater({0}, {1})", Minimum: "lesser({0}, {1})",
    Less: "{0} < {1}", LessEqual: "{0} <= {1}", And: "{0} && {1}", Where: "{0} ? {1} : {2}",
    Neg: "-{0}", Exp: "expf({0})", Sqrt: "sqrtf({0})", Reciprocal: "1.0f / {0}", Tanh: "tanhf({0})",
    Sigmoid: "1.0f / (1.0f + expf(-{0}))", Erf: "erff({0})", Cos: "cosf({0})", Sin: "sinf({0})",
    ReLU: "greater({0}, 0.0f)", SiLU: "{0} / (1.0f + expf(-{0}))", Broadcast: "{0}",
}   # fmt: skip
"""What an element is made of, by the operands' elements."""


class _Text:
    """The CUDA C++ of one op under way: what it reads, from where."""

    def __init__(self) -> None:
        self.sizes = Sizes()
        self.pointers: list[Pointer] = []
        self.declared: list[str] = []

    def read(self, name: str, value: Value, at: str) -> str:
        """An element of an operand, as a number."""
        if is_literal(value):
            return literal(value)
        pointer = operand(name)
        if pointer not in self.pointers:
            self.pointers.append(pointer)
            self.declared.append(f"const {C_TYPES[value.dtype]}* p{len(self.pointers) - 1},")
        return f"wide(p{self.pointers.index(pointer)}[{at}])"

    def launch(self, op: Op, value: str, shape: Sequence[Size]) -> Launch:
        """The launch of one thread for every `EACH` elements."""
        coordinates = self.sizes.split("i", shape)
        defines: dict[str, int | str] = {
            "Y": C_TYPES[op.dtype], "THREADS": THREADS, "EACH": EACH, "OPERANDS": " ".join(self.declared),
            "VALUE": value, "COORDINATES": coordinates, "SIZES": self.sizes.parameters,
        }   # fmt: skip
        count = product(*op.shape)
        arguments = (*self.pointers, result(), *self.sizes.arguments, Scalar("i64", count))
        return Launch("pointwise", defines, (ceildiv(count, THREADS * EACH), 1, 1), (THREADS, 1, 1), arguments)


def is_literal(value: Value) -> bool:
    """Whether a value is one number, which kernels hold in their text."""
    return isinstance(value, Constant) and len(set(value.values)) == 1


def literal(value: Value) -> str:
    """A number as CUDA C++, as its type rounds it.

    >>> from trtc.ir.ops import scalar
    >>> literal(scalar(0.1, bf16)), literal(scalar(3, i64)), literal(scalar(-math.inf, f32))
    ('0.10009765625f', '3LL', '-INFINITY')
    """
    assert isinstance(value, Constant)
    if not value.dtype.is_float:
        return f"{int(value.values[0])}{'LL' if value.dtype == i64 else ''}"
    number = float(value.dtype.numpy.type(value.values[0]))
    if math.isinf(number) or math.isnan(number):
        return "(INFINITY - INFINITY)" if math.isnan(number) else "-INFINITY" if number < 0 else "INFINITY"
    return f"{number!r}f" if number >= 0 else f"({number!r}f)"


def _moved(op: Op) -> str | None:
    """Why the element types are not served."""
    for value in (op, *op.operands.values()):
        if value.dtype not in C_TYPES:
            return f"it reads or makes {value.dtype}, which is stored in parts of bytes or has no arithmetic"
    return None


def _pointwise(op: Op, formula: str) -> Launch:
    text = _Text()
    values = op.operands
    whole, *shapes = collapsed([op.shape, *(v.shape for v in values.values())])
    elements = [
        text.read(name, value, text.sizes.at([f"c{axis}" for axis in range(len(shape))], shape))
        for (name, value), shape in zip(values.items(), shapes, strict=True)
    ]
    return text.launch(op, formula.format(*elements), whole)


def _register(kind: type[Op], formula: str) -> None:
    def rule(op: Op) -> Launch:
        return _pointwise(op, formula)

    rule.__annotations__["op"] = kind
    rule.__name__ = f"pointwise_{kind.name}"
    kernel("pointwise.cu", _moved)(rule)


for _kind, _formula in FORMULAS.items():
    _register(_kind, _formula)


@kernel("pointwise.cu", _moved)
def pointwise_gelu(op: GELU) -> Launch:
    return _pointwise(op, f"activated<{3 if op.tanh else 2}>({{0}})")


@kernel("pointwise.cu", _moved)
def pointwise_cast(op: Cast) -> Launch:
    return _pointwise(op, "{0} != 0" if op.to == bool_ else "{0}")


@kernel("pointwise.cu")
def pointwise_iota(op: Iota) -> Launch:
    return _Text().launch(op, "c0", op.shape)


@kernel("pointwise.cu")
def pointwise_size_of(op: SizeOf) -> Launch:
    text = _Text()
    return text.launch(op, text.sizes(op.x.shape[op.axis]), op.shape)


@kernel("pointwise.cu", _moved)
def pointwise_transpose(op: Transpose) -> Launch:
    text = _Text()
    coordinates = [f"c{op.axes.index(axis)}" for axis in range(op.type.rank)]
    return text.launch(op, text.read("x", op.x, text.sizes.at(coordinates, op.x.shape)), op.shape)


@kernel("pointwise.cu", _moved)
def pointwise_slice(op: Slice) -> Launch:
    text = _Text()
    coordinates = [f"(c{axis} + {op.start})" if axis == op.axis else f"c{axis}" for axis in range(op.type.rank)]
    return text.launch(op, text.read("x", op.x, text.sizes.at(coordinates, op.x.shape)), op.shape)


def _few(op: Concat) -> str | None:
    return _moved(op) if len(op.parts) <= 8 else f"it joins {len(op.parts)} parts, but must join 8 at most"


@kernel("pointwise.cu", _moved)
def pointwise_rope(op: Rope) -> Launch:
    text, half = _Text(), fixed(op.cos.shape[2])

    def x(column: str) -> str:
        return text.read("x", op.x, text.sizes.at(["c0", "c1", "c2", column], op.x.shape))

    pair = "c3 / 2" if op.interleaved else f"c3 % {half}"
    first = "c3 % 2 == 0" if op.interleaved else f"c3 < {half}"
    step = 1 if op.interleaved else half
    cos, sin = (
        text.read(name, table, text.sizes.at(["c0", "c2", pair], table.shape))
        for name, table in (("cos", op.cos), ("sin", op.sin))
    )
    here, behind, before = x("c3"), x(f"(c3 + {step})"), x(f"(c3 - {step})")
    turned = f"{first} ? {here} * {cos} - {behind} * {sin} : {here} * {cos} + {before} * {sin}"
    return text.launch(op, f"c3 >= {2 * half} ? {here} : {turned}", op.shape)


NUMBERS: Mapping[DType, str] = {
    i8: "(float)(i8)p0[i]", f8e4m3: "from_float8(p0[i])",
    i4: "(float)((int)((u32)p0[i / 2] << (i % 2 ? 24 : 28)) >> 28)",
}   # fmt: skip
"""Element i of a weight as it is stored, in bytes."""


@kernel("pointwise.cu")
def dequantize(op: Dequantize) -> Launch:
    """Elements of a weight from what is stored, zeros and scales."""
    text, product = _Text(), op.product
    text.pointers.append(operand("weight"))
    text.declared.append("const u8* p0,")
    groups = fixed(op.weight.shape[1]) // product.group
    group = f"c0 * {text.sizes(groups)} + c1 / {product.group}" if groups > 1 else "c0"
    number = NUMBERS[op.weight.dtype]
    if op.zeros:
        number = f"({number} - {text.read('zeros', op.zeros, group)})"
    return text.launch(op, f"{number} * {text.read('scales', op.scales, group)}", op.shape)


@kernel("pointwise.cu", _few)
def pointwise_concat(op: Concat) -> Launch:
    text = _Text()
    value, end = "", op.type.shape[op.axis]
    for number in reversed(range(len(op.parts))):
        part = op.parts[number]
        end = end - part.shape[op.axis]
        here = f"(c{op.axis} - {text.sizes(end)})" if end != 0 else f"c{op.axis}"
        coordinates = [here if axis == op.axis else f"c{axis}" for axis in range(op.type.rank)]
        element = text.read(f"parts[{number}]", part, text.sizes.at(coordinates, part.shape))
        value = f"c{op.axis} < {text.sizes(end + part.shape[op.axis])} ? {element} : ({value})" if value else element
    return text.launch(op, value, op.shape)


@kernel("pointwise.cu", _moved)
def pointwise_gather(op: Gather) -> Launch:
    text = _Text()
    batch, axis, looked = op.batch, op.axis, op.indices.type.rank - op.batch
    names = [f"c{i}" for i in range(op.type.rank)]
    key = names[:batch] + names[axis : axis + looked]
    index = text.read("indices", op.indices, text.sizes.at(key, op.indices.shape))
    coordinates = [*names[:axis], index, *names[axis + looked :]]
    return text.launch(op, text.read("x", op.x, text.sizes.at(coordinates, op.x.shape)), op.shape)
