"""How a kernel is launched: entry, defines, grid, block, arguments, and the memory it asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

from trtc.expressions import Expression
from trtc.ir.types import Dim, Size

MULTIPROCESSORS = "multiprocessors"   # of the device: a size that the runtime adds to those of the graph


@dataclass(frozen=True)
class Pointer:
    """A pointer argument.

    Args:
        kind: what it points to: an operand or a result of the op; the workspace, bytes that only this launch uses;
            the counters, bytes that are zero before every launch because each kernel leaves them so.
        name: of the operand (a list's as ``parts[0]``), or the result's number as text; empty otherwise.
    """

    kind: Literal["operand", "result", "workspace", "counters"]
    name: str = ""


@dataclass(frozen=True)
class Scalar:
    """A number argument: an expression of sizes, or a float."""

    dtype: Literal["i32", "i64", "f32"]
    value: Expression | float


Argument: TypeAlias = Pointer | Scalar


@dataclass(frozen=True)
class Launch:
    """One launch of one kernel, for any value of the sizes.

    Args:
        entry: the name of the ``extern "C" __global__`` function.
        defines: ``-D`` of the source: what is fixed when it is compiled.
        grid: blocks along x, y and z.
        block: threads along x, y and z.
        arguments: of the function, in its order.
        shared_bytes: of dynamic shared memory; above 48 KB the runtime raises the function's limit.
        workspace_bytes: what ``Pointer("workspace")`` needs; not initialised, free again after the launch.
        counter_bytes: what ``Pointer("counters")`` needs. All launches of a plan may share them: they are zeroed once.
        in_place: results that the kernel writes into an operand's buffer: result number to operand name. The
            kernel leaves what it does not write there as it is, so both must be one buffer.
        early: operands that the kernel reads before it waits, beside weights: no launch of the same run may have made
            them, if this one is to overlap.
        overlaps: the kernel waits by itself for what came before it (``wait_for_previous``), so the launch may carry
            the attribute of programmatic dependent launches; from architecture 90 on.
    """

    entry: str
    defines: Mapping[str, int | str]
    grid: tuple[Expression, Expression, Expression]
    block: tuple[int, int, int]
    arguments: tuple[Argument, ...]
    shared_bytes: int = 0
    workspace_bytes: Expression = 0
    counter_bytes: Expression = 0
    in_place: Mapping[int, str] = field(default_factory=dict[int, str])
    early: tuple[str, ...] = ()
    overlaps: bool = True

    def record(self) -> dict[str, Any]:
        """What a JSON plan holds of it."""
        return asdict(self)


def operand(name: str) -> Pointer:
    return Pointer("operand", name)


def result(number: int = 0) -> Pointer:
    return Pointer("result", str(number))


def count(size: Size | str) -> Scalar:
    """A size as an i32 argument."""
    return Scalar("i32", text(size))


def text(size: Size | str) -> Expression:
    """A size of the IR as an expression."""
    return str(size) if isinstance(size, Dim) else size


def ceildiv(size: Size | str, by: int) -> Expression:
    """``size / by``, rounded up.

    >>> ceildiv(Dim.named("B") * 3, 8), ceildiv(17, 8)
    ('ceildiv(3*B, 8)', 3)
    """
    return -(-size // by) if isinstance(size, int) else f"ceildiv({size}, {by})"


def product(*sizes: Size | str) -> Expression:
    """The sizes multiplied.

    >>> product(Dim.named("B") + 1, 4), product(2, 3)
    ('(B + 1)*4', 6)
    """
    number, names = 1, list[str]()
    for size in sizes:
        if isinstance(size, int):
            number *= size
        else:
            shown = str(size)
            names.append(f"({shown})" if " " in shown and not shown.startswith("ceildiv") else shown)
    return "*".join(names + ([str(number)] if number != 1 or not names else [])) if names else number
