"""Whole numbers that depend on sizes known at run time, as text: what a launch plan holds.

An expression is a number, or text in names, numbers, ``+ - *``, parentheses and the functions ``ceildiv(a, b)``,
``min(a, b)`` and ``max(a, b)``. Sizes of the IR print as such text.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeAlias

from trtc.errors import TrtcError

Expression: TypeAlias = int | str
Arithmetic: TypeAlias = Mapping[str, Callable[[Any, Any], Any]]
SIGNS: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*"}
WHOLE: Arithmetic = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "ceildiv": lambda a, b: -(-a // b),
    "min": min,
    "max": max,
}
"""What signs and functions do to whole numbers."""


def evaluate(expression: Expression, sizes: Mapping[str, int]) -> int:
    """The number that an expression is where its names have these values.

    >>> evaluate("ceildiv(B*S + 1, 8) * max(B, 4)", {"B": 2, "S": 8})
    12
    """
    return int(compute(expression, sizes, WHOLE))


def compute(expression: Expression, sizes: Mapping[str, Any], arithmetic: Arithmetic) -> Any:
    """What an expression is where its names stand for these things, which signs and functions work on as told.

    Args:
        arithmetic: for each key of `WHOLE`, what makes one thing or number of two.
    """
    return expression if isinstance(expression, int) else _value(_parsed(expression), expression, sizes, arithmetic)


def names(expression: Expression) -> set[str]:
    """The sizes that an expression is of.

    >>> sorted(names("ceildiv(B*S + 1, 8) * max(B, 4)"))
    ['B', 'S']
    """
    if isinstance(expression, int):
        return set()
    return {n.id for n in ast.walk(_parsed(expression)) if isinstance(n, ast.Name)} - set(WHOLE)


@cache
def _parsed(text: str) -> ast.expr:
    try:
        return ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        raise TrtcError(f"`{text}` is no expression of sizes") from None


def _value(node: ast.expr, text: str, sizes: Mapping[str, Any], arithmetic: Arithmetic) -> Any:
    def of(part: ast.expr) -> Any:
        return _value(part, text, sizes, arithmetic)

    match node:
        case ast.Constant(int(number)) if not isinstance(number, bool):
            return number
        case ast.Name(name):
            if name not in sizes:
                known = ", ".join(sorted(sizes)) or "none"
                raise TrtcError(f"`{text}` needs the size {name}, but the sizes are {known}")
            return sizes[name]
        case ast.UnaryOp(ast.USub(), operand):
            return arithmetic["-"](0, of(operand))
        case ast.BinOp(left, op, right) if type(op) in SIGNS:
            return arithmetic[SIGNS[type(op)]](of(left), of(right))
        case ast.Call(ast.Name(name), [a, b], []) if name in arithmetic:
            return arithmetic[name](of(a), of(b))
        case _:
            raise TrtcError(f"`{text}` is no expression of sizes")
