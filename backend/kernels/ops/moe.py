"""Mixtures of experts: the choice, and the two products of the experts chosen."""

from __future__ import annotations

import numpy as np

from trtc.ir.op import Array, Op, Value, require
from trtc.ir.ops import Div, Experts, Gather, ReduceSum, Softmax, TopK, wide
from trtc.ir.ops.activation import silu
from trtc.ir.types import Size, TensorType, i32


class Route(Op, name="cuda.route"):
    """The k likeliest experts of each token, and how much each of them counts.

    Operands:
        logits: float[N, E].
    Attributes:
        k: how many, in 1..E.
        normalised: the shares of a token sum to 1; else they are those of the softmax over all experts.
    Result:
        i32[N, k], the likeliest first and of equal ones the first; then their shares, float[N, k] of logits' dtype.
    """

    logits: Value
    k: int
    normalised: bool = True

    def infer(self) -> tuple[TensorType, TensorType]:
        require(self.logits.type.rank == 2, f"logits has rank {self.logits.type.rank}, but must have rank 2")
        chosen = TopK(self.logits, self.k).type
        return chosen, TensorType(self.logits.dtype, chosen.shape)

    def evaluate(self, logits: Array) -> tuple[Array, Array]:
        chosen = TopK(self.logits, self.k).evaluate(logits)
        x = wide(logits)
        weights = np.exp(x - x.max(axis=1, keepdims=True))
        shares = np.take_along_axis(weights, chosen, 1)
        total = shares if self.normalised else weights
        return chosen, (shares / total.sum(axis=1, keepdims=True)).astype(logits.dtype)

    def decompose(self) -> tuple[Value, Value]:
        chosen = TopK(self.logits, self.k)
        shares: Value = Gather(Softmax(self.logits, 1), chosen, axis=1, batch=1)
        return chosen, Div(shares, ReduceSum(shares, 1)) if self.normalised else shares


class ExpertsInner(Op, name="cuda.experts_inner"):
    """What the experts that are chosen for a token make of it inside: ``silu(fc[e] @ x[n]) * (gate[e] @ x[n])``.

    Operands:
        x, chosen, fc, gate: as of experts.
    Result:
        float[N, K, I], of x's dtype. Sums are taken in f32.
    """

    x: Value
    chosen: Value
    fc: Value
    gate: Value

    def infer(self) -> TensorType:
        require(self.fc.type.rank == 3, f"fc has rank {self.fc.type.rank}, but must have rank 3")
        (experts, width, hidden), dtype, tokens = self.fc.shape, self.x.dtype, self.x.shape[0]
        check(self, x=dtype[tokens, hidden], fc=dtype[experts, width, hidden], gate=self.fc.type)
        return TensorType(dtype, (*picks(self.chosen, tokens), width))

    def evaluate(self, x: Array, chosen: Array, fc: Array, gate: Array) -> Array:
        y = np.empty((*chosen.shape, fc.shape[1]), x.dtype)
        for e in np.unique(chosen):
            rows, places = np.nonzero(chosen == e)
            read = wide(x[rows])
            y[rows, places] = silu(read @ wide(fc[e]).T) * (read @ wide(gate[e]).T)
        return y


class ExpertsOuter(Op, name="cuda.experts_outer"):
    """The weighted sum of what the experts of a token give out: ``sum over k of shares[n, k] * proj[e] @ inner[n, k]``.

    Operands:
        inner: float[N, K, I].
        chosen, shares, proj: as of experts.
    Result:
        float[N, H], of inner's dtype. Sums are taken in f32.
    """

    inner: Value
    chosen: Value
    shares: Value
    proj: Value

    def infer(self) -> TensorType:
        require(self.proj.type.rank == 3, f"proj has rank {self.proj.type.rank}, but must have rank 3")
        require(self.inner.type.rank == 3, f"inner has rank {self.inner.type.rank}, but must have rank 3")
        (experts, hidden, width), dtype, tokens = self.proj.shape, self.inner.dtype, self.inner.shape[0]
        pairs = picks(self.chosen, tokens)
        check(self, inner=TensorType(dtype, (*pairs, width)), shares=TensorType(dtype, pairs),
              proj=dtype[experts, hidden, width])   # fmt: skip
        return dtype[tokens, hidden]

    def evaluate(self, inner: Array, chosen: Array, shares: Array, proj: Array) -> Array:
        y: Array = np.zeros((len(inner), proj.shape[1]), wide(inner).dtype)
        for e in np.unique(chosen):
            rows, places = np.nonzero(chosen == e)
            np.add.at(y, rows, wide(shares[rows, places, None]) * (wide(inner[rows, places]) @ wide(proj[e]).T))
        return y.astype(inner.dtype)


def experts_in_two(op: Experts) -> Value:
    """experts(x, fc, gate, proj)  ->  experts_outer(experts_inner(x, fc, gate), proj): each reads only who is chosen"""
    return ExpertsOuter(ExpertsInner(op.x, op.chosen, op.fc, op.gate), op.chosen, op.shares, op.proj)


def picks(chosen: Value, tokens: Size) -> tuple[Size, Size]:
    """The shape of the choice, i32[N, K]."""
    fits = chosen.dtype == i32 and chosen.type.rank == 2 and chosen.shape[0] == tokens
    require(fits, f"chosen is {chosen.type}, but must be {i32[tokens, 'K']}")
    return chosen.shape[0], chosen.shape[1]


def check(op: Op, **wanted: TensorType) -> None:
    """The types of operands."""
    for name, want in wanted.items():
        got = op.operands[name].type
        require(got == want and want.dtype.is_float, f"{name} is {got}, but must be {want}")
