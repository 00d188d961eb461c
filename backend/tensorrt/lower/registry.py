"""Lowerings: for each kind of op, the function that adds its layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from trtc.ir.op import Op

Lowering: TypeAlias = Callable[[Any, Any], Any]
"""Of an op and the emitter, the tensor that is the op's result."""

L = TypeVar("L", bound=Lowering)

LOWERINGS: dict[type[Op], Lowering] = {}


def lower(*kinds: type[Op]) -> Callable[[L], L]:
    """Make a function the lowering of some kinds of op: it adds layers and gives the result's tensor."""

    def register(lowering: L) -> L:
        for kind in kinds:
            assert kind not in LOWERINGS, f"{kind.name} has two lowerings"
            LOWERINGS[kind] = lowering
        return lowering

    return register
