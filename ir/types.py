"""Types: element types, symbolic sizes, tensor types."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, total_ordering
from typing import Any, TypeAlias, cast

import ml_dtypes
import numpy as np

Monomial: TypeAlias = tuple[str, ...]
Bounds: TypeAlias = Mapping[str, tuple[int, int]]


@total_ordering
@dataclass(frozen=True)
class Dim:
    """A size that is known only at run time: an integer polynomial of named sizes.

    Kept in one canonical form, so that ``==`` decides equality.

    >>> S, P = Dim.named("S"), Dim.named("P")
    >>> P + S == S + P, str(2 * S + S), S + 1 - S
    (True, '3*S', 1)
    """

    terms: tuple[tuple[Monomial, int], ...]

    @staticmethod
    def named(name: str) -> Dim:
        return Dim((((name,), 1),))

    def __add__(self, other: Size) -> Size:
        total = Counter(dict(self.terms))
        for names, coefficient in _terms(other):
            total[names] += coefficient
        return _make(total)

    def __mul__(self, other: Size) -> Size:
        product: Counter[Monomial] = Counter()
        for m, c in self.terms:
            for n, d in _terms(other):
                product[tuple(sorted(m + n))] += c * d
        return _make(product)

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> Size:
        return self * -1

    def __sub__(self, other: Size) -> Size:
        return self + other * -1

    def __rsub__(self, other: Size) -> Size:
        return self * -1 + other

    def __lt__(self, other: Dim) -> bool:
        return self.terms < other.terms

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self.terms)

    def __str__(self) -> str:
        def term(names: Monomial, coefficient: int) -> str:
            factors = ([str(abs(coefficient))] if abs(coefficient) != 1 or not names else []) + list(names)
            return "*".join(factors)

        ordered = sorted(self.terms, key=lambda t: (-t[1] < 0, t), reverse=True)   # a positive term leads
        text = "".join((" + " if c > 0 else " - ") + term(m, c) for m, c in ordered)
        return text[3:] if text.startswith(" + ") else "-" + text[3:]


Size: TypeAlias = int | Dim


def _terms(size: Size) -> Iterable[tuple[Monomial, int]]:
    return size.terms if isinstance(size, Dim) else (((), size),)


def _make(terms: Mapping[Monomial, int]) -> Size:
    kept = tuple(sorted((m, c) for m, c in terms.items() if c))
    if not kept or (len(kept) == 1 and kept[0][0] == ()):
        return kept[0][1] if kept else 0
    return Dim(kept)


def names(sizes: Iterable[Size]) -> set[str]:
    """The size names that occur in these sizes."""
    return {n for s in sizes if isinstance(s, Dim) for m, _ in s.terms for n in m}


def evaluate(size: Size, sizes: Mapping[str, int]) -> int:
    """The number that a size is where its names have these values."""
    return sum(c * math.prod(sizes[n] for n in m) for m, c in _terms(size))


def substitute(size: Size, values: Mapping[str, Size]) -> Size:
    """A size with other sizes for some of its names.

    >>> str(substitute(Dim.named("P") + Dim.named("S"), {"P": Dim.named("M") - Dim.named("S")}))
    'M'
    """
    total: Size = 0
    for monomial, coefficient in _terms(size):
        term: Size = coefficient
        for name in monomial:
            term = term * values.get(name, Dim.named(name))
        total = total + term
    return total


def interval(size: Size, bounds: Bounds) -> tuple[int, int]:
    """The (least, greatest) value that a size can take within the bounds of its names, each >= 0.

    >>> interval(Dim.named("S") * 2 - 1, {"S": (1, 8)})
    (1, 15)
    """
    low = high = 0
    for monomial, c in _terms(size):
        least, most = (c * math.prod(bounds[n][i] for n in monomial) for i in (0, 1))
        low, high = low + min(least, most), high + max(least, most)
    return low, high


def solve(types: Iterable[tuple[tuple[Size, ...], tuple[int, ...]]]) -> dict[str, int]:
    """The values of the names, from (symbolic shape, actual shape) pairs; a plain name on an axis fixes it."""
    found: dict[str, int] = {}
    for shape, actual in types:
        for size, number in zip(shape, actual, strict=True):
            if isinstance(size, Dim) and len(size.terms) == 1 and size.terms[0][1] == 1 and len(size.terms[0][0]) == 1:
                found.setdefault(size.terms[0][0][0], number)
    return found


@dataclass(frozen=True)
class DType:
    """An element type. ``f16["B", "S", 64]`` is a tensor type of that element."""

    name: str
    bits: int
    kind: str   # "float", "int", "uint" or "bool"
    numpy: np.dtype[Any]

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def span(self) -> tuple[int, int]:
        """The least and greatest number of an integer type or bool."""
        if self.kind == "int":
            return -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1
        return 0, 1 if self.kind == "bool" else (1 << self.bits) - 1

    def __getitem__(self, shape: Size | str | tuple[Size | str, ...]) -> TensorType:
        sizes = shape if isinstance(shape, tuple) else (shape,)
        return TensorType(self, tuple(Dim.named(s) if isinstance(s, str) else s for s in sizes))

    def __str__(self) -> str:
        return self.name

    def __hash__(self) -> int:
        return hash(self.name)


f32 = DType("f32", 32, "float", np.dtype(np.float32))
f16 = DType("f16", 16, "float", np.dtype(np.float16))
bf16 = DType("bf16", 16, "float", np.dtype(ml_dtypes.bfloat16))
f8e4m3 = DType("f8e4m3", 8, "float", np.dtype(ml_dtypes.float8_e4m3fn))
i4 = DType("i4", 4, "int", np.dtype(ml_dtypes.int4))
i8 = DType("i8", 8, "int", np.dtype(np.int8))
u8 = DType("u8", 8, "uint", np.dtype(np.uint8))
i32 = DType("i32", 32, "int", np.dtype(np.int32))
i64 = DType("i64", 64, "int", np.dtype(np.int64))
bool_ = DType("bool", 8, "bool", np.dtype(np.bool_))
DTYPES = {d.name: d for d in (f32, f16, bf16, f8e4m3, i4, i8, u8, i32, i64, bool_)}


@dataclass(frozen=True)
class TensorType:
    """A dense tensor: element type and shape, outermost axis first.

    >>> print(f16["B", "S", 64])
    f16[B, S, 64]
    """

    dtype: DType
    shape: tuple[Size, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def static(self) -> bool:
        return all(isinstance(s, int) for s in self.shape)

    def numel(self) -> int:
        """The number of elements of a static type."""
        assert self.static, f"{self} has sizes that are known only at run time"
        return math.prod(cast("tuple[int, ...]", self.shape))

    def nbytes(self) -> int:
        """The bytes of a static type, two i4 a byte."""
        return (self.numel() * self.dtype.bits + 7) // 8

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"
