"""Kernels: records of what CUDA C++ serves which op, and the registry of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, get_type_hints

from trtc.backend.kernels.launch import Launch
from trtc.backend.kernels.nvrtc import Binary, compile_source
from trtc.backend.kernels.ptx import check
from trtc.errors import TrtcError
from trtc.ir.op import Op

ARCHITECTURES = (80, 86, 89, 90, 100, 120)
"""Ampere, its consumer parts, Ada, Hopper, Blackwell, its consumer parts."""

Condition: TypeAlias = Callable[[Any], "str | None"]
LaunchRule: TypeAlias = Callable[[Any], Launch]


@dataclass(frozen=True)
class Kernel:
    """CUDA C++ that computes one kind of op.

    Args:
        name: of the kernel; by default the launch rule's.
        op: the kind of op it computes, whose docstring, ``infer`` and ``evaluate`` say what it must do.
        source: the file of CUDA C++, for NVRTC; what it includes by ``#include "..."`` lies beside it.
        condition: why an op of the kind is not served, as the end of "because ..."; None if it is.
        rule: the op's launch.
        architectures: compute capabilities, such as 90 for 9.0, that it is compiled for.
        specific: whether it needs instructions that these architectures alone have, so that it is compiled for sm_90a,
            not sm_90.
    """

    name: str
    op: type[Op]
    source: Path
    condition: Condition
    rule: LaunchRule
    architectures: tuple[int, ...]
    specific: bool = False

    def serves(self, op: Op, architecture: int) -> str | None:
        """Why it does not serve this op on this architecture; None if it does."""
        if type(op) is not self.op:
            return f"{self.name} computes {self.op.name}, not {op.name}"
        if architecture not in self.architectures:
            return f"{self.name} is for architectures {', '.join(map(str, self.architectures))}, not {architecture}"
        return self.condition(op)

    def launch(self, op: Op) -> Launch:
        """How it is launched for this op, for any value of the op's sizes."""
        return self.rule(op)

    def compile(self, op: Op, architecture: int) -> Binary:
        """The machine code and the PTX for this op."""
        return compile_source(self.source, self.launch(op).defines, architecture, self.specific)

    def machine_code(self, launch: Launch, architecture: int) -> bytes:
        """The machine code for a launch of it, which passes what the kernel takes."""
        made = compile_source(self.source, launch.defines, architecture, self.specific)
        check(made.ptx, launch)
        return made.cubin


KERNELS: dict[type[Op], list[Kernel]] = {}
"""For each kind of op its kernels, the one to be tried first at the front."""


def kernel(
    source: str | Path, serves: Condition = lambda op: None, *, architectures: tuple[int, ...] = ARCHITECTURES,
    specific: bool = False,
) -> Callable[[LaunchRule], LaunchRule]:
    """Register a kernel by its launch rule: a function of the op that its first argument states.

    A kernel that is registered later is tried first, so that one's own goes before one of ours.

    Args:
        source: the CUDA C++, beside the file of the rule.
        serves: why an op is not served, or None.
        architectures, specific: as of `Kernel`.
    """

    def register(rule: LaunchRule) -> LaunchRule:
        parameter = next(iter(inspect.signature(rule).parameters), "")
        kind: type[Op] | None = get_type_hints(rule).get(parameter)
        if kind is None:
            raise TrtcError(f"launch rule {rule.__name__} must state the kind of op that it takes: rule(op: Add)")
        path = Path(inspect.getfile(rule)).parent / source
        if not path.is_file():
            raise TrtcError(f"kernel {rule.__name__} names the source {source}, but {path} is no file")
        made = Kernel(rule.__name__, kind, path, serves, rule, architectures, specific)
        KERNELS.setdefault(kind, []).insert(0, made)
        return rule

    return register


def find(op: Op, architecture: int) -> Kernel | str:
    """The kernel for an op; if there is none, why not, one reason a kernel."""
    reasons: list[str] = []
    for each in KERNELS.get(type(op), []):
        why = each.serves(op, architecture)
        if why is None:
            return each
        reasons.append(why)
    return "; ".join(reasons) or f"no kernel computes {op.name}"
