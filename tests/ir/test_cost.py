"""What ops cost and what memory graphs need, beside formulas worked by hand."""

from __future__ import annotations

import pytest

from trtc.ir import Graph, Op, bf16, bool_, f16, f32, i32
from trtc.ir.cost import Cost, cost
from trtc.ir.liveness import peak_bytes
from trtc.ir.ops import (
    Add,
    Attention,
    Cast,
    Embedding,
    Experts,
    Input,
    KVCacheUpdate,
    Linear,
    MatMul,
    Neg,
    ReduceSum,
    Reshape,
    RMSNorm,
    Softmax,
    SwiGLU,
    Transpose,
    Weight,
)

SIZES = {"B": 2, "S": 3}
X = Input("x", f16["B", "S", 64])
Q, K = Input("q", f16["B", 8, "S", 16]), Input("k", f16["B", 2, 100, 16])
IDS, LENGTHS = Input("ids", i32["B", "S"]), Input("lengths", i32["B"])
T = 2 * 3   # tokens

CASES: dict[str, tuple[Op, Cost]] = {
    # 2 operations a multiply-add, and one for the bias; the weight is read once
    "linear": (Linear(X, Weight("w", f16[32, 64])), Cost(2 * T * 32 * 64, 2 * (T * 64 + 32 * 64), 2 * T * 32)),
    "bias": (
        Linear(X, Weight("w", f16[32, 64]), Weight("b", f16[32])),
        Cost(2 * T * 32 * 64 + T * 32, 2 * (T * 64 + 32 * 64 + 32), 2 * T * 32),
    ),
    "matmul": (
        MatMul(X, Input("y", f16["B", 64, 5])), Cost(2 * T * 64 * 5, 2 * (T * 64 + 2 * 64 * 5), 2 * T * 5),
    ),
    # scores and their product with values: 2 * B * Hq * S * T * (D + E); two heads of keys are read once
    "attention": (
        Attention(Q, K, K, LENGTHS),
        Cost(2 * 2 * 8 * 3 * 100 * 32, 2 * T * 8 * 16 + 2 * 2 * 2 * 100 * 32 + 2 * 4, 2 * T * 8 * 16),
    ),
    "update": (
        KVCacheUpdate(K, Input("new", f16["B", 2, "S", 16]), LENGTHS), Cost(0, 2 * T * 2 * 16 + 8, 2 * T * 2 * 16),
    ),
    "embedding": (Embedding(Weight("t", bf16[1000, 64]), IDS), Cost(0, 2 * T * 64 + 4 * T, 2 * T * 64)),
    "add": (Add(X, X), Cost(T * 64, 2 * T * 64, 2 * T * 64)),
    "softmax": (Softmax(X, 2), Cost(5 * T * 64, 2 * T * 64, 2 * T * 64)),
    "sum": (ReduceSum(X, 2), Cost(T * 64, 2 * T * 64, 2 * T)),
    "cast": (Cast(X, f32), Cost(0, 2 * T * 64, 4 * T * 64)),
    "transpose": (Transpose(X, (1, 0, 2)), Cost(0, 2 * T * 64, 2 * T * 64)),
    "reshape": (Reshape(X, (*X.shape[:2], 8, 8)), Cost()),
    # gate * sigmoid(gate) * up
    "swiglu": (SwiGLU(X, X), Cost(3 * T * 64, 2 * T * 64, 2 * T * 64)),
}   # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_costs_are_those_of_the_formulas(name: str) -> None:
    op, want = CASES[name]
    assert cost(op, SIZES) == want


def test_attention_costs_what_it_sees() -> None:
    op, seen = Attention(Q, K, K, LENGTHS), 10
    least = cost(op, SIZES, context=seen)
    assert least.flops * 10 == cost(op, SIZES).flops
    assert cost(op, SIZES).read - least.read == 2 * 2 * 2 * (100 - seen) * 32
    assert cost(op, SIZES, context=1000) == cost(op, SIZES)


@pytest.mark.parametrize(("tokens", "touched"), [(1, 2), (3, 6), (100, 8)])
def test_experts_cost_what_the_chosen_ones_read(tokens: int, touched: int) -> None:
    """Each token has 2 of 8 experts of three matrices 16 x 32; no more are read than there are."""
    x, chosen, shares = Input("x", f16["N", 32]), Input("c", i32["N", 2]), Input("s", f16["N", 2])
    fc, proj = Weight("fc", f16[8, 16, 32]), Weight("proj", f16[8, 32, 16])
    op = Experts(x, chosen, shares, fc, Weight("gate", f16[8, 16, 32]), proj)
    got = cost(op, {"N": tokens})
    assert got.flops == 2 * 3 * 16 * 32 * tokens * 2
    assert got.read == 2 * 3 * 16 * 32 * touched + tokens * (2 * 32 + 4 * 2 + 2 * 2)


def test_a_norm_costs_what_its_parts_do() -> None:
    """Square, sum, divide by the count, add, root, divide, scale: 4 for each element and 3 or 4 for each token."""
    got = cost(RMSNorm(X, Weight("w", f16[64]), 1e-5), SIZES)
    assert 4 * T * 64 <= got.flops <= 4 * T * 64 + 4 * T
    assert (got.read, got.written) == (2 * T * 64 + 2 * 64, 2 * T * 64)


def test_the_roofline_is_the_dearer_of_both() -> None:
    assert Cost(flops=8, read=3, written=1).seconds(flops=4.0, bandwidth=1.0) == 4.0
    assert Cost(flops=8, read=3, written=1).seconds(flops=1.0, bandwidth=1.0) == 8.0


def graph(y: Op, *inputs: Input) -> Graph:
    return Graph("g", inputs, {"y": y}, {"B": (1, 8), "S": (1, 8)})


def test_values_live_until_they_are_last_read() -> None:
    row = 2 * T * 64   # bytes of x
    a = Neg(X)
    b = Neg(a)
    c = Add(a, b)      # a, b and c at once
    d = Neg(c)         # c and d
    assert peak_bytes(graph(Neg(d), X), SIZES) == 3 * row


def test_outputs_inputs_and_constants_lie_elsewhere() -> None:
    assert peak_bytes(graph(Neg(X), X), SIZES) == 0
    assert peak_bytes(graph(Neg(Neg(X)), X), SIZES) == 2 * T * 64
    assert peak_bytes(graph(Add(X, Neg(Weight("w", f16[64]))), X), SIZES) == 0


def test_a_view_is_the_memory_that_it_looks_at() -> None:
    row, flat = 2 * T * 64, (*X.shape[:2], 8, 8)
    a = Neg(X)
    view = Reshape(a, flat)
    assert peak_bytes(graph(Neg(Neg(view)), X), SIZES) == 2 * row
    b = Neg(view)      # a is not read again, but by its view
    assert peak_bytes(graph(Reshape(Add(b, view), X.shape), X), SIZES) == 2 * row


def test_types_of_less_than_a_byte_are_rounded_up() -> None:
    assert cost(Neg(Input("x", f32[3])), {}).read == 12
    assert cost(Cast(Input("x", bool_[3]), i32), {}) == Cost(0, 3, 12)
