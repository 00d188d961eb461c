"""Rotary position embedding."""

from __future__ import annotations

import numpy as np

from trtc.ir.op import Array, Op, Value, require
from trtc.ir.ops.elementwise import Add, Mul, Sub, same_float, wide
from trtc.ir.ops.shape import Concat, Reshape, Slice
from trtc.ir.types import Size, TensorType


class Rope(Op, name="rope"):
    """Rotate pairs of elements of each head by an angle that grows with the position.

        (y1, y2) = (x1 * cos - x2 * sin, x2 * cos + x1 * sin)

    Operands:
        x: float[B, N, S, D], N heads of S tokens.
        cos, sin: float[B, S, R/2], of each token; only the first R <= D elements of a head are rotated.
    Attributes:
        interleaved: pair i is elements 2i and 2i+1 (GPT-J order), instead of i and i + R/2 (GPT-NeoX order, Llama).
    Result:
        x's type. Computed in f32.
    Source:
        Su et al., RoFormer, 2021, arXiv:2104.09864.
    """

    x: Value
    cos: Value
    sin: Value
    interleaved: bool = False

    def infer(self) -> TensorType:
        same_float(self.x, self.cos, self.sin)
        require(self.x.type.rank == 4, f"x has rank {self.x.type.rank}, but must have rank 4")
        batch, _, tokens, head = self.x.shape
        half = self.cos.shape[-1] if self.cos.shape else 0
        require(self.cos.type == self.sin.type, f"cos is {self.cos.type}, but sin is {self.sin.type}")
        require(self.cos.shape == (batch, tokens, half), f"cos is {self.cos.type}, but x has {batch} x {tokens} tokens")
        fits = isinstance(half, int) and isinstance(head, int) and 0 < 2 * half <= head
        require(fits, f"cos has {half} angles, which turn {2 * half} elements, but a head has {head}")
        return self.x.type

    def evaluate(self, x: Array, cos: Array, sin: Array) -> Array:
        half = cos.shape[-1]
        y, c, s = wide(x), wide(cos)[:, None], wide(sin)[:, None]
        turned = y[..., : 2 * half]
        pairs = (turned[..., 0::2], turned[..., 1::2]) if self.interleaved else (turned[..., :half], turned[..., half:])
        rotated = pairs[0] * c - pairs[1] * s, pairs[1] * c + pairs[0] * s
        joint = np.stack(rotated, -1).reshape(turned.shape) if self.interleaved else np.concatenate(rotated, -1)
        return np.concatenate([joint, y[..., 2 * half :]], -1).astype(x.dtype)

    def decompose(self) -> Value:
        batch, heads, tokens, head = self.x.shape
        half = self.cos.shape[-1]
        assert isinstance(half, int) and isinstance(head, int)
        turned = self.x if 2 * half == head else Slice(self.x, 3, 0, 2 * half)
        shape: tuple[Size, ...] = (batch, heads, tokens, *((half, 2) if self.interleaved else (2, half)))
        paired, axis = Reshape(turned, shape), 4 if self.interleaved else 3
        angles: tuple[Size, ...] = (batch, 1, tokens, half, 1) if self.interleaved else (batch, 1, tokens, 1, half)
        cos, sin = Reshape(self.cos, angles), Reshape(self.sin, angles)
        x1, x2 = Slice(paired, axis, 0, 1), Slice(paired, axis, 1, 1)
        rotated = Sub(Mul(x1, cos), Mul(x2, sin)), Add(Mul(x2, cos), Mul(x1, sin))
        joint = Reshape(Concat(rotated, axis), turned.shape)
        return joint if turned is self.x else Concat((joint, Slice(self.x, 3, 2 * half, head - 2 * half)), 3)
