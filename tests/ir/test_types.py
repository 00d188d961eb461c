"""Sizes are polynomials: their laws, their range, and the values that shapes give to names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtc.ir.types import DTYPES, Dim, Size, TensorType, evaluate, f16, f32, i4, i32, interval, names, solve

NAMES = ("A", "B", "S")
VALUES = st.fixed_dictionaries({name: st.integers(0, 9) for name in NAMES})


def sizes(depth: int = 3) -> st.SearchStrategy[Size]:
    leaf = st.one_of(st.integers(-4, 4), st.sampled_from([Dim.named(n) for n in NAMES]))
    return st.recursive(
        leaf,
        lambda s: st.one_of(
            st.tuples(s, s).map(lambda ab: ab[0] + ab[1]),
            st.tuples(s, s).map(lambda ab: ab[0] - ab[1]),
            st.tuples(s, s).map(lambda ab: ab[0] * ab[1]),
        ),
        max_leaves=depth * 2,
    )


@given(sizes(), sizes(), sizes())
def test_ring_laws(a: Size, b: Size, c: Size) -> None:
    assert a + b == b + a and a * b == b * a
    assert (a + b) + c == a + (b + c) and (a * b) * c == a * (b * c)
    assert a * (b + c) == a * b + a * c
    assert a + 0 == a == a * 1 and a * 0 == 0 == a - a
    assert 0 - (0 - a) == a and a - b == a + -b and -a == a * -1


@given(sizes(), sizes(), VALUES)
def test_arithmetic_agrees_with_numbers(a: Size, b: Size, values: dict[str, int]) -> None:
    x, y = evaluate(a, values), evaluate(b, values)
    assert evaluate(a + b, values) == x + y
    assert evaluate(a - b, values) == x - y
    assert evaluate(a * b, values) == x * y


@given(sizes())
def test_text_is_the_polynomial(a: Size) -> None:
    assert eval(str(a), {n: Dim.named(n) for n in NAMES}) == a


@given(sizes())
def test_one_form(a: Size) -> None:
    assert hash(a) == hash(a + Dim.named("A") - Dim.named("A"))
    assert isinstance(a, int) == (not names([a]))


@given(sizes(), VALUES, VALUES)
def test_interval_holds_every_value(a: Size, low: dict[str, int], more: dict[str, int]) -> None:
    bounds = {n: (low[n], low[n] + more[n]) for n in NAMES}
    least, most = interval(a, bounds)
    for point in (low, {n: high for n, (_, high) in bounds.items()}, {n: sum(b) // 2 for n, b in bounds.items()}):
        assert least <= evaluate(a, point) <= most


def test_interval_is_tight_where_no_name_repeats() -> None:
    a, s = Dim.named("A"), Dim.named("S")
    assert interval(2 * a - 3 * s + 1, {"A": (1, 4), "S": (0, 5)}) == (2 - 15 + 1, 8 + 1)
    assert interval(7, {}) == (7, 7)


@given(VALUES)
def test_solve_finds_what_a_plain_axis_states(values: dict[str, int]) -> None:
    shapes: list[tuple[Size, ...]] = [f32["A", 3, "S"].shape, f32[Dim.named("B") * 2, "B"].shape]
    actual = [tuple(evaluate(s, values) for s in shape) for shape in shapes]
    assert solve(zip(shapes, actual, strict=True)) == values


@pytest.mark.parametrize(
    "size,text",
    [
        (Dim.named("S") * 2 + 1, "2*S + 1"),
        (1 - Dim.named("S"), "1 - S"),
        (-Dim.named("S") - 1, "-S - 1"),
        (Dim.named("S") * Dim.named("B") * 3, "3*B*S"),
    ],
)
def test_text_of_sizes(size: Size, text: str) -> None:
    assert str(size) == text


def test_tensor_types() -> None:
    assert str(f16["B", "S", 64]) == "f16[B, S, 64]" and f16["B", 2].rank == 2
    assert f32[2, 3].numel() == 6 and f32[2, 3].nbytes() == 24 and f32[2, 3].static
    assert i4[5].nbytes() == 3, "two a byte, rounded up"
    assert not f32["B"].static and TensorType(f32, ()).numel() == 1
    assert i32.span == (-(2**31), 2**31 - 1) and DTYPES["bool"].span == (0, 1) and DTYPES["u8"].span == (0, 255)
    assert all(name == str(dtype) and dtype.bits <= 8 * dtype.numpy.itemsize for name, dtype in DTYPES.items())
