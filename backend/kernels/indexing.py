"""Row-major positions as CUDA C++: what kernels that are made for one op compute them by.

Sizes that are known stand in the text as numbers, so that dividing by them is cheap; the others are parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

from trtc.backend.kernels.launch import Scalar, text
from trtc.ir.types import Size


class Sizes:
    """The sizes that a kernel's text speaks of, and the parameters that carry those known only at run time."""

    def __init__(self) -> None:
        self._names: dict[Size, str] = {}

    def __call__(self, size: Size) -> str:
        """A size as CUDA C++."""
        return str(size) if isinstance(size, int) else self._names.setdefault(size, f"n{len(self._names)}")

    @property
    def parameters(self) -> str:
        """Their declarations, one behind the other: ``, int n0, int n1``."""
        return "".join(f", int {name}" for name in self._names.values())

    @property
    def arguments(self) -> tuple[Scalar, ...]:
        """What is passed for the parameters."""
        return tuple(Scalar("i32", text(size)) for size in self._names)

    def split(self, index: str, shape: Sequence[Size], prefix: str = "c") -> str:
        """Statements that declare the coordinates ``c0, c1, ...`` of a position in a tensor of this shape.

        >>> print(Sizes().split("i", (2, 3)))
        u64 rest_c = i; const u64 c1 = rest_c % 3; rest_c /= 3; const u64 c0 = rest_c;
        """
        lines = [f"u64 rest_{prefix} = {index};"]
        for axis in reversed(range(1, len(shape))):
            size = self(shape[axis])
            lines.append(f"const u64 {prefix}{axis} = rest_{prefix} % {size}; rest_{prefix} /= {size};")
        return " ".join([*lines, *([f"const u64 {prefix}0 = rest_{prefix};"] if shape else [])])

    def at(self, coordinates: Sequence[str], shape: Sequence[Size]) -> str:
        """The position of an element of a tensor of this shape; a coordinate of an axis of size 1 counts nothing.

        >>> Sizes().at(["c0", "c1", "c2"], (4, 1, 8))
        '(c0) * 8 + c2'
        """
        found = ""
        for coordinate, size in zip(coordinates, shape, strict=True):
            if size != 1:
                found = f"({found}) * {self(size)} + {coordinate}" if found else coordinate
        return found or "0"


def collapsed(shapes: Sequence[Sequence[Size]]) -> list[tuple[Size, ...]]:
    """The shapes with neighbouring axes joined where all of them allow it; the first is the whole, others broadcast.

    >>> collapsed([(2, 3, 4), (2, 3, 4), (4,)])
    [(6, 4), (6, 4), (1, 4)]
    """
    rank = len(shapes[0])
    columns = list(zip(*((*(1,) * (rank - len(s)), *s) for s in shapes), strict=True))
    kept: list[tuple[Size, ...]] = []
    for column in columns:
        if column[0] == 1:
            continue
        if kept and [s == 1 for s in kept[-1]] == [s == 1 for s in column]:
            kept[-1] = tuple(a * b for a, b in zip(kept[-1], column, strict=True))
        else:
            kept.append(column)
    return [tuple(column[i] for column in kept) for i in range(len(shapes))]
