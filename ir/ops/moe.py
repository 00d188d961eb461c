"""Mixtures of experts: the choice of the greatest scores, and the feed-forward blocks of the experts chosen."""

from __future__ import annotations

import numpy as np

from trtc.ir.op import Array, Op, Value, require
from trtc.ir.ops.activation import SwiGLU, silu
from trtc.ir.ops.elementwise import And, LessEqual, Mul, Where, same_float, wide
from trtc.ir.ops.leaves import Iota, scalar
from trtc.ir.ops.linear import MatMul
from trtc.ir.ops.reduce import ReduceSum
from trtc.ir.ops.shape import Reshape, Transpose
from trtc.ir.types import TensorType, i32


class TopK(Op, name="top_k"):
    """Where the greatest elements of the last axis stand, the greatest first; of equal ones the first.

    Operands:
        x: float[..., N].
    Attributes:
        k: how many, in 1..N.
    Result:
        i32[..., k], each in 0..N; ``gather`` with shared axes gives the elements.
    """

    x: Value
    k: int

    def infer(self) -> TensorType:
        require(self.x.dtype.is_float, f"x is {self.x.dtype}, but must be a float")
        require(self.x.type.rank > 0, "x has rank 0, but must have rank 1 at least")
        size = self.x.shape[-1]
        require(isinstance(size, int) and 1 <= self.k <= size, f"k is {self.k}, but the last axis of x has {size}")
        return TensorType(i32, (*self.x.shape[:-1], self.k))

    def evaluate(self, x: Array) -> Array:
        return np.argsort(-wide(x), axis=-1, kind="stable")[..., : self.k].astype(np.int32)


class Experts(Op, name="experts"):
    """The weighted sum of what the experts that are chosen for a token make of it; each is a SwiGLU block.

        y[n] = sum over k of shares[n, k] * proj[e] @ (silu(fc[e] @ x[n]) * (gate[e] @ x[n])),   e = chosen[n, k]

    Operands:
        x: float[N, H], the tokens.
        chosen: i32[N, K], in 0..E, the experts of a token, each once.
        shares: float[N, K], how much each of them counts, >= 0.
        fc, gate: float[E, I, H].
        proj: float[E, H, I].
    Result:
        x's type. Sums are taken in f32.
    Source:
        Shazeer et al., 2017, arXiv:1701.06538; with SwiGLU: Jiang et al., Mixtral of Experts, 2024, arXiv:2401.04088.
    """

    x: Value
    chosen: Value
    shares: Value
    fc: Value
    gate: Value
    proj: Value

    def infer(self) -> TensorType:
        dtype = same_float(self.x, self.shares, self.fc, self.gate, self.proj)
        for name, value, rank in (("x", self.x, 2), ("chosen", self.chosen, 2), ("fc", self.fc, 3)):
            require(value.type.rank == rank, f"{name} has rank {value.type.rank}, but must have rank {rank}")
        (experts, width, hidden), picks = self.fc.shape, self.chosen.shape
        for name, value, want in (
            ("x", self.x, dtype[self.x.shape[0], hidden]),
            ("chosen", self.chosen, i32[self.x.shape[0], picks[1]]),
            ("shares", self.shares, dtype[picks]),
            ("gate", self.gate, self.fc.type),
            ("proj", self.proj, dtype[experts, hidden, width]),
        ):
            require(value.type == want, f"{name} is {value.type}, but must be {want}")
        require(isinstance(experts, int), f"fc has {experts} experts, but their number must be known")
        return self.x.type

    def evaluate(self, x: Array, chosen: Array, shares: Array, fc: Array, gate: Array, proj: Array) -> Array:
        y: Array = np.zeros(x.shape, wide(x).dtype)
        for e in np.unique(chosen):
            rows, places = np.nonzero(chosen == e)
            read = wide(x[rows])
            inner = silu(read @ wide(fc[e]).T) * (read @ wide(gate[e]).T)
            np.add.at(y, rows, wide(shares[rows, places, None]) * (inner @ wide(proj[e]).T))
        return y.astype(x.dtype)

    def decompose(self) -> Value:
        """Every expert on every token, and most of it counts nothing: for targets that have no better."""
        (tokens, hidden), picks, experts = self.x.shape, self.chosen.shape[1], self.fc.shape[0]
        number, chosen = Iota(experts), Reshape(self.chosen, (tokens, picks, 1))
        picked = And(LessEqual(number, chosen), LessEqual(chosen, number))
        counted = Where(picked, Reshape(self.shares, (tokens, picks, 1)), scalar(0, self.x.dtype))
        shares = Transpose(Reshape(ReduceSum(counted, 1), (tokens, experts)), (1, 0))
        x = Reshape(self.x, (1, tokens, hidden))
        gate, up = (MatMul(x, Transpose(weight, (0, 2, 1))) for weight in (self.fc, self.gate))
        inner = Mul(SwiGLU(gate, up), Reshape(shares, (experts, tokens, 1)))
        y = MatMul(inner, Transpose(self.proj, (0, 2, 1)))
        return Reshape(ReduceSum(y, 0), self.x.shape)
