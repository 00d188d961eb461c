"""The bits of stored numbers: other element types of the same bytes, and integers of a few bits.

Of constants alone: ``materialize`` evaluates them before an engine is built, and no target takes them.
"""

from __future__ import annotations

import numpy as np

from trtc.ir.op import Array, Op, Value, require
from trtc.ir.types import DType, TensorType, bool_, i8, u8


def _row(x: Value) -> tuple[int, int]:
    """The elements of the last axis, and their bits in all; an error unless they lie in whole bytes."""
    require(x.type.rank > 0, "x has rank 0, but must have rank 1 at least")
    count = x.shape[-1]
    known = isinstance(count, int) and x.dtype.bits >= 8 and x.dtype != bool_
    require(known, f"x is {x.type}, but must be of 8 bits or more an element, and its last axis of a known size")
    assert isinstance(count, int)
    return count, count * x.dtype.bits


class Bitcast(Op, name="bitcast"):
    """The same bytes as another element type; the last axis becomes longer or shorter.

    Bytes are in little-endian order: ``bitcast(u8[0, 60, 0, 64], to=f16)`` is ``f16[1, 2]``.

    Operands:
        x: any[..., N], of 8 bits or more an element.
    Result:
        any[..., N * bits of x / bits of to].
    """

    x: Value
    to: DType

    def infer(self) -> TensorType:
        _, bits = _row(self.x)
        require(self.to.bits >= 8 and self.to != bool_, f"to is {self.to}, but must be of 8 bits or more")
        require(bits % self.to.bits == 0, f"the last axis has {bits} bits, but {self.to} has {self.to.bits}")
        return TensorType(self.to, (*self.x.shape[:-1], bits // self.to.bits))

    def evaluate(self, x: Array) -> Array:
        return np.ascontiguousarray(x).view(self.to.numpy)


class Unpack(Op, name="unpack"):
    """The integers of a few bits each that lie one behind the other in the bits of the last axis, lowest first.

    With W bits an element, bit k of the last axis is bit ``k % W`` of element ``k // W``; ``y[..., i]`` is made of bits
    ``bits * i .. bits * (i + 1)``. So ``unpack(i32[0x76543210], bits=4)`` is ``u8[0, 1, 2, 3, 4, 5, 6, 7]``.

    Operands:
        x: int[..., N], of W >= 8 bits an element.
    Attributes:
        bits: of one integer, 1..8.
        signed: in two's complement.
    Result:
        u8[..., N * W / bits], or i8 where signed.
    """

    x: Value
    bits: int
    signed: bool = False

    def infer(self) -> TensorType:
        require(self.x.dtype.kind in ("int", "uint"), f"x is {self.x.dtype}, but must be of integers")
        _, whole = _row(self.x)
        require(1 <= self.bits <= 8, f"bits is {self.bits}, but must be in 1..8")
        require(whole % self.bits == 0, f"the last axis has {whole} bits, but must have a multiple of {self.bits}")
        return TensorType(i8 if self.signed else u8, (*self.x.shape[:-1], whole // self.bits))

    def evaluate(self, x: Array) -> Array:
        raw, sign = np.ascontiguousarray(x).view(np.uint8), np.uint8(1 << (self.bits - 1))
        if 8 % self.bits == 0:
            shifts = np.arange(0, 8, self.bits, dtype=np.uint8)
            fields = raw[..., None] >> shifts
            fields &= np.uint8((1 << self.bits) - 1)
        else:
            every = np.unpackbits(raw, axis=-1, bitorder="little")
            fields = np.packbits(every.reshape(*raw.shape[:-1], -1, self.bits), axis=-1, bitorder="little")
        fields = fields.reshape(*raw.shape[:-1], -1)
        if not self.signed:
            return fields
        fields ^= sign
        fields -= sign
        return fields.view(np.int8)
