"""Weights that are expressions of quantised tensors: unpack, subtract the zero, multiply by the scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from trtc.errors import TrtcError
from trtc.frontend.config import Keys
from trtc.frontend.weights import PLAIN, Expression, Fetch, Source
from trtc.ir.op import Value
from trtc.ir.ops import Cast, Concat, Mul, Reshape, Slice, Sub, repeated
from trtc.ir.types import DType, f32


@dataclass(frozen=True)
class Stored:
    """The tensors that one weight is stored as.

    Args:
        stem: their keys, less the last part.
        source: the checkpoint's tensors.
        fetch: makes leaves of them.
        expert: which one of how many, where the tensors hold the weights of all experts, one behind the other.
    """

    stem: str
    source: Source
    fetch: Fetch
    expert: tuple[int, int] | None = None

    def has(self, name: str) -> bool:
        return f"{self.stem}.{name}" in self.source

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor, or of an expert's part of it."""
        whole = tuple(size for size in self.source.type(f"{self.stem}.{name}").shape if isinstance(size, int))
        return whole[1:] if self.expert and whole[:1] == (self.expert[1],) else whole

    def dtype(self, name: str) -> DType:
        return self.source.type(f"{self.stem}.{name}").dtype

    def __call__(self, name: str, *shape: int, of: tuple[DType, ...] = PLAIN) -> Value:
        """The tensor of a name, such as ``qweight``, of a shape; an error where it is another.

        Of the tensors of experts, an expert's part; all of one that they share.
        """
        key = f"{self.stem}.{name}"
        if self.expert is None or self.source.type(key).shape == shape:
            return self.fetch(key, *shape, of=of)
        number, count = self.expert
        return Reshape(Slice(self.fetch(key, count, *shape, of=of), 0, number, 1), shape)

    def beside(self, module: str) -> Stored:
        """The tensors of another module of the same rank or file."""
        return Stored(module, self.source, self.fetch)

    def wrong(self, name: str, want: str, *notes: str) -> TrtcError:
        key = f"{self.stem}.{name}"
        return TrtcError(f"tensor {key} is {self.source.type(key)}, but must be {want}", *notes)


Dequantize = Callable[[Stored, int, int], Value | None]
"""The weight float[rows, columns] of some tensors; None where it is stored as it is."""
Block = tuple[int, int]
"""The rows and the columns that share a scale."""
METHODS: dict[str, Callable[[Keys], Dequantize]] = {}
"""By ``quant_method``: reads the config, and gives what makes weights."""


def dequantized(plain: Expression, keys: Keys, source: Source) -> Expression:
    """The same weights by role, where those that ``quantization_config`` is about are made of quantised tensors.

    Args:
        plain: over the tensors of a checkpoint that is not quantised.
        keys: of the quantization_config.
    """
    return made_plain(plain, METHODS[keys.choice("quant_method", tuple(METHODS))](keys), source)


def made_plain(plain: Expression, dequantize: Dequantize, source: Source) -> Expression:
    """The same weights by role, where ``dequantize`` makes the matrices, and those of experts one by one."""

    def expression(role: str, shape: tuple[int, ...], fetch: Fetch) -> Value:
        def fetch_plain(key: str, *sizes: int) -> Value:
            stem, _, kind = key.rpartition(".")
            made = None
            if kind == "weight" and len(sizes) == 2:
                made = dequantize(Stored(stem, source, fetch), *sizes)
            if kind == "weight" and len(sizes) == 3:
                made = _experts(dequantize, Stored(stem, source, fetch), *sizes)
            return fetch(key, *sizes) if made is None else made

        return plain(role, shape, fetch_plain)

    return expression


def _experts(dequantize: Dequantize, stored: Stored, count: int, rows: int, columns: int) -> Value | None:
    """The weights of all experts of a layer: float[count, rows, columns]."""
    found = [dequantize(replace(stored, expert=(n, count)), rows, columns) for n in range(count)]
    each = tuple(Reshape(weight, (1, rows, columns)) for weight in found if weight is not None)
    return Concat(each, 0) if len(each) == count else None


def words(count: int, bits: int, word: int = 32) -> int:
    """The words that so many integers of some bits take, the last one filled up."""
    return -(-count * bits // word)


def blocks_of(rows: int, columns: int, block: Block) -> tuple[int, int]:
    """How many blocks lie one below the other, and side by side; the last ones may be cut short."""
    return -(-rows // block[0]), -(-columns // block[1])


def wide(x: Value) -> Value:
    return x if x.dtype == f32 else Cast(x, f32)


def scaled(q: Value, scale: Value, zero: Value | None = None, block: Block | None = None) -> Value:
    """``(q - zero) * scale`` in f32, of a matrix by equal blocks.

    Args:
        q: any[R, C].
        scale, zero: any[r, c], one for each block of R/r rows and C/c columns; or any[], one zero for all.
        block: the rows and columns of a block, where the last ones may be cut short: r is R / rows, rounded up.
    """
    (rows, columns), (down, across) = _sizes(q), _sizes(scale)
    block = block and (min(block[0], rows), min(block[1], columns))
    if block and blocks_of(rows, columns, block) == (down, across):
        for axis, whole in enumerate((rows, columns)):
            if whole % block[axis]:
                scale = Slice(repeated(scale, axis, block[axis]), axis, 0, whole)
                zero = zero and Slice(repeated(zero, axis, block[axis]), axis, 0, whole)
                down, across = _sizes(scale)
    axes = (_split(down, rows // down), _split(across, columns // across))
    each, blocks = (tuple(n for axis in axes for n in axis[which]) for which in (0, 1))
    x = wide(_as(q, blocks))
    x = Sub(x, wide(_as(zero, each) if zero.shape else zero)) if zero else x
    return _as(Mul(x, wide(_as(scale, each))), (rows, columns))


def _split(count: int, size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """An axis of so many blocks of a size: of what has one number a block, and of what has them all."""
    return ((count, 1), (count, size)) if count > 1 and size > 1 else ((count,), (count * size,))


def _as(x: Value, shape: tuple[int, ...]) -> Value:
    return x if x.shape == shape else Reshape(x, shape)


def _sizes(x: Value) -> tuple[int, int]:
    first, second = x.shape
    assert isinstance(first, int) and isinstance(second, int)
    return first, second
