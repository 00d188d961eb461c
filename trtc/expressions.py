"""Whole numbers that depend on sizes known at run time, as text: what a launch plan holds.

An expression is a number, or text in names, numbers, ``+ - *``, parentheses and the functions ``ceildiv(a, b)``,
``min(a, b)`` and ``max(a, b)``. Sizes of the IR print as such text.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from functools import cache
from typing import TypeAlias

from trtc.errors import TrtcError

Expression: TypeAlias = int | str
BINARY: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
}
FUNCTIONS: dict[str, Callable[[int, int], int]] = {"ceildiv": lambda a, b: -(-a // b), "min": min, "max": max}


def evaluate(expression: Expression, sizes: Mapping[str, int]) -> int:
    """The number that an expression is where its names have these values.

    >>> evaluate("ceildiv(B*S + 1, 8) * max(B, 4)", {"B": 2, "S": 8})
    12
    """
    return expression if isinstance(expression, int) else _value(_parsed(expression), expression, sizes)


@cache
def _parsed(text: str) -> ast.expr:
    try:
        return ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        raise TrtcError(f"`{text}` is no expression of sizes") from None


def _value(node: ast.expr, text: str, sizes: Mapping[str, int]) -> int:
    match node:
        case ast.Constant(int(number)) if not isinstance(number, bool):
            return number
        case ast.Name(name):
            if name not in sizes:
                known = ", ".join(sorted(sizes)) or "none"
                raise TrtcError(f"`{text}` needs the size {name}, but the sizes are {known}")
            return sizes[name]
        case ast.UnaryOp(ast.USub(), operand):
            return -_value(operand, text, sizes)
        case ast.BinOp(left, op, right) if type(op) in BINARY:
            return BINARY[type(op)](_value(left, text, sizes), _value(right, text, sizes))
        case ast.Call(ast.Name(name), [a, b], []) if name in FUNCTIONS:
            return FUNCTIONS[name](_value(a, text, sizes), _value(b, text, sizes))
        case _:
            raise TrtcError(f"`{text}` is no expression of sizes")
