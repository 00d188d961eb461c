"""Targets: records of what a back end takes natively, what it replaces, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from trtc.ir.errors import IRError, nearest
from trtc.ir.op import Op
from trtc.ir.types import DType

Condition: TypeAlias = Callable[[Any], "str | None"]
"""Why an op is not native, as the end of "because ..."; None where it is."""


C = TypeVar("C", bound=Condition)


def always(_: Op) -> str | None:
    """always"""
    return None


def stated(words: str) -> Callable[[C], C]:
    """State a condition in words, as the end of "native if ..."; they become its docstring."""

    def give(condition: C) -> C:
        condition.__doc__ = words
        return condition

    return give


@dataclass(frozen=True)
class Target:
    """One back end in one version.

    Args:
        name: as ``--target`` spells it.
        version: of the product that runs the engine.
        summary: one line of help.
        capability: the compute capability of the GPUs to build for, such as ``sm89``; empty where nothing is said.
        kernels: trtc's own kernels are asked for, as plugins.
        native: for each kind of op that the back end can emit, the condition under which it does.
        plugins: rewrite rules to the target's own ops, for ``rewrite-plugins``, in stages.
        prepare: passes that its runtime or its ops want first, as text.
        paged: the pass that has caches in pages, of what is legal; empty where nothing reads such.
        fixed: sizes that the target takes as numbers only; ``specialize`` gives them their greatest value first.
        floats: the element types that a model may have; all where empty.
        widened: element types that the target computes in a wider one: weights stay as stored, the rest widens.
    """

    name: str
    version: str
    summary: str
    native: Mapping[type[Op], Condition]
    plugins: tuple[tuple[Callable[..., Any], ...], ...] = ()
    prepare: tuple[str, ...] = ()
    paged: str = ""
    fixed: tuple[str, ...] = ()
    floats: tuple[DType, ...] = ()
    widened: Mapping[DType, DType] = field(default_factory=dict[DType, DType])
    capability: str = ""
    kernels: bool = False

    def refuses(self, op: Op) -> str | None:
        """Why the target does not take this op; None if it does."""
        if type(op) not in self.native:
            return f"{self} has no {op.name}"
        return self.native[type(op)](op)

    def __str__(self) -> str:
        gpu = f"/{self.capability}" if self.capability else ""
        return f"{self.name}:{self.version}{gpu}{'+plugins' * self.kernels}"


TARGETS: dict[str, Callable[[str], Target]] = {}
"""By name, what makes the record of a version (the newest known for an empty one)."""


def target(text: str) -> Target:
    """The target that ``name``, ``name:version``, ``name:version/capability`` or ``...+plugins`` states."""
    name, _, version = text.partition(":")
    if name not in TARGETS:
        known = nearest(name, TARGETS) or [f"help: one of {', '.join(TARGETS)}"]
        known = known if TARGETS else ["help: import trtc.backend.targets, which registers those of trtc"]
        raise IRError(f"unknown target `{name}`", *known)
    return TARGETS[name](version)
