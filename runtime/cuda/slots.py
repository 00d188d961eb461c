"""The numbers and addresses that a phase's steps use, in one array that is filled at once."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from trtc.expressions import Expression

Base: TypeAlias = tuple[str, str]   # ("number", ""), ("size", an expression), ("io", a tensor), ("weight", one), ...

NUMBER: Base = ("number", "")


class Values:
    """What is in slots, by their places; kernels read it from here when they are launched.

    Numbers of 32 bits are in the low half, as the GPU's host has it.
    """

    def __init__(self, slots: npt.NDArray[np.int64]) -> None:
        self._slots = slots
        self._numbers: list[int] = slots.tolist()
        self._addresses = slots.ctypes.data + slots.itemsize * np.arange(len(slots), dtype=np.int64)
        self._first = self._addresses.ctypes.data

    def __getitem__(self, place: int) -> int:
        return self._numbers[place]

    def pointers(self, places: range) -> int:
        """The address of an array with the addresses of these slots."""
        return self._first + self._addresses.itemsize * places.start


class Slots:
    """Slots of 64 bits, each a base, which is known when sizes and addresses are, and a constant that is added.

    Steps refer to slots by their places, so that a phase is bound anew by a few expressions and one sum of arrays.
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

    def arguments(self, arguments: Iterable[Mapping[str, Any]]) -> range:
        """The slots of a kernel's arguments, as plan.json has them."""
        first = len(self._base)
        for argument in arguments:
            match argument:
                case {"at": _}:
                    self.address(argument)
                case {"f32": number}:
                    self.add(NUMBER, *struct.unpack("<i", struct.pack("<f", number)))
                case _:
                    self.number(argument["i32"] if "i32" in argument else argument["i64"])
        return range(first, len(self._base))

    def fill(self, value: Callable[[str, str], int]) -> Values:
        """All slots.

        Args:
            value: of a base other than numbers.
        """
        bases = np.array([0 if base == NUMBER else value(*base) for base in self._bases], np.int64)
        return Values(bases[np.array(self._base, np.intp)] + np.array(self._added, np.int64))
