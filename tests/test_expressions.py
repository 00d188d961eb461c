"""Expressions of sizes, as launch plans hold them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtc.errors import TrtcError
from trtc.expressions import evaluate
from trtc.ir import types
from trtc.ir.types import Dim, Size

SIZES = {"B": 3, "S": 5, "M": 1000}


@st.composite
def sizes(draw: st.DrawFn) -> Size:
    total: Size = draw(st.integers(-4, 4))
    for name in draw(st.lists(st.sampled_from(sorted(SIZES)), max_size=4)):
        total = total * draw(st.integers(-3, 3)) + Dim.named(name) * (total if draw(st.booleans()) else 2)
    return total


@given(sizes())
def test_sizes_of_the_ir_print_as_expressions(size: Size) -> None:
    assert evaluate(str(size), SIZES) == types.evaluate(size, SIZES)


@pytest.mark.parametrize(
    ("text", "number"),
    [("ceildiv(7, 2)", 4), ("ceildiv(B*S, 4)*4", 16), ("max(1, min(B, S - 4))", 1), ("-B + 2*(S - 1)", 5), ("12", 12)],
)
def test_functions(text: str, number: int) -> None:
    assert evaluate(text, SIZES) == number


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("B + N", "`B + N` needs the size N, but the sizes are B, M, S"),
        ("B +", "`B +` is no expression of sizes"),
        ("B / 2", "`B / 2` is no expression of sizes"),
        ("open('x')", "`open('x')` is no expression of sizes"),
        ("ceildiv(B)", "`ceildiv(B)` is no expression of sizes"),
        ("B.real", "`B.real` is no expression of sizes"),
        ("True", "`True` is no expression of sizes"),
    ],
)
def test_what_is_no_expression_is_refused(text: str, message: str) -> None:
    with pytest.raises(TrtcError) as error:
        evaluate(text, SIZES)
    assert error.value.message == message
