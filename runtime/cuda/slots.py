"""The numbers and addresses that a phase's steps use, in one array that is filled at once."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from trtc.expressions import Expression

Base: TypeAlias = tuple[str, str]   # ("number", ""), ("size", an expression), ("io", a tensor), ("weight", one), ...
Values: TypeAlias = npt.NDArray[np.int64]

NUMBER: Base = ("number", "")


class Slots:
    """Slots of 64 bits, each a base, which is known when sizes and addresses are, and a constant that is added.

    Steps refer to slots by their places, so that a phase is bound anew by a few expressions and one sum of arrays.
    Numbers of 32 bits are in the low half, as the GPU's host has it.
    """

    def __init__(self) -> None:
        self._bases: dict[Base, int] = {}
        self._base, self._added = list[int](), list[int]()

    def add(self, base: Base, added: int = 0) -> int:
        """A new slot's place."""
        self._base.append(self._bases.setdefault(base, len(self._bases)))
        self._added.append(added)
        return len(self._base) - 1

    def number(self, number: Expression) -> int:
        """The slot of a number, or of an expression of sizes."""
        return self.add(NUMBER, number) if isinstance(number, int) else self.add(("size", number))

    def address(self, reference: Mapping[str, Any]) -> int:
        """The slot of a place in memory, as plan.json has it."""
        return self.add((reference["at"], reference.get("name", "")), reference.get("offset", 0))

    def argument(self, argument: Mapping[str, Any]) -> int:
        """The slot of a kernel's argument, as plan.json has it."""
        if "at" in argument:
            return self.address(argument)
        if "f32" in argument:
            return self.add(NUMBER, *struct.unpack("<i", struct.pack("<f", argument["f32"])))
        return self.number(argument["i32"] if "i32" in argument else argument["i64"])

    def fill(self, value: Callable[[str, str], int]) -> Values:
        """All slots.

        Args:
            value: of a base other than numbers.
        """
        bases = np.array([0 if base == NUMBER else value(*base) for base in self._bases], np.int64)
        return bases[np.array(self._base, np.intp)] + np.array(self._added, np.int64)
