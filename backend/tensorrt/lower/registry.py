"""Lowerings: for each kind of op, the function that adds its layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from trtc.ir.op import Op

if TYPE_CHECKING:
    from trtc.backend.tensorrt.emit import Emitter

Lowering: TypeAlias = "Callable[[Any, Emitter], Any]"
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
