"""Lifts: for each kind of ONNX node, the function that makes ops of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from trtc.frontend.onnx.known import Unknown, sizes_of
from trtc.ir.op import Array, Value
from trtc.ir.types import Size

Lifted: TypeAlias = "Value | Array"
"""A tensor of the model: a value of the graph, or elements that are known already."""


@dataclass(frozen=True)
class Node:
    """One ONNX node, its inputs lifted.

    Args:
        inputs: None for one that is left out.
        opset: of its domain.
        enter: makes known elements a value of the graph.
    """

    kind: str
    inputs: Sequence[Lifted | None]
    attributes: Mapping[str, Any]
    outputs: int
    opset: int
    enter: Callable[[Lifted], Value]

    def given(self, i: int) -> bool:
        return i < len(self.inputs) and self.inputs[i] is not None

    def lifted(self, i: int) -> Lifted:
        found = self.inputs[i] if i < len(self.inputs) else None
        if found is None:
            raise ValueError(f"input {i} is missing")
        return found

    def value(self, i: int) -> Value:
        return self.enter(self.lifted(i))

    def known(self, i: int) -> Array:
        """The elements of an input that must not depend on the model's inputs."""
        found = self.lifted(i)
        if isinstance(found, Value):
            raise ValueError(f"input {i} is computed at run time, but must be known")
        return found

    def sizes(self, i: int) -> tuple[Size, ...]:
        return sizes_of(self.known(i))

    def numbers(self, i: int, name: str, default: Sequence[int] | None = None) -> list[int] | None:
        """Integers that older opsets have as an attribute of this name and newer ones as an input."""
        if self.given(i):
            sizes = self.sizes(i)
            if not all(isinstance(s, int) for s in sizes):
                raise ValueError(f"{name} depend on symbolic sizes")
            return [s for s in sizes if isinstance(s, int)]
        found: Any = self.attributes.get(name, default)
        return None if found is None else [int(n) for n in found]

    def shape(self, i: int) -> tuple[Size, ...]:
        found = self.lifted(i)
        return found.shape

    def axis(self, number: int, rank: int) -> int:
        """An axis that may count from the end."""
        if not -rank <= number < rank:
            raise ValueError(f"axis {number} is outside a rank of {rank}")
        return number % rank


Lift: TypeAlias = "Callable[[Node], Lifted | tuple[Lifted, ...]]"
Fold: TypeAlias = Callable[..., Any]
L = TypeVar("L", bound=Lift)
F = TypeVar("F", bound=Fold)
LIFTS: dict[str, Lift] = {}
FOLDS: dict[str, Fold] = {}
"""For kinds that shapes are computed with: what makes known elements of known elements, of the node and its arrays."""


def lift(*kinds: str) -> Callable[[L], L]:
    """Make a function the lift of some kinds of node."""

    def register(function: L) -> L:
        LIFTS.update(dict.fromkeys(kinds, function))
        return function

    return register


def fold(*kinds: str) -> Callable[[F], F]:
    """Make a function the fold of some kinds of node; it raises `Unknown` where elements cannot be known."""

    def register(function: F) -> F:
        FOLDS.update(dict.fromkeys(kinds, function))
        return function

    return register


def unknown(*arrays: Array) -> None:
    """Leave elements to the run time where any of them is a symbolic size."""
    if any(a.dtype == object for a in arrays):
        raise Unknown
