"""Rules to kernels as plugins, where one helps; ``--explain`` says why they were not applied."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

from trtc.backend.integers import integers
from trtc.backend.kernels.ops import FusedLinear
from trtc.backend.tensorrt.api import Api
from trtc.backend.tensorrt.plugins import is_kernels, refuses
from trtc.ir.graph import Graph
from trtc.ir.op import Op, Value
from trtc.ir.ops import Broadcast, Cast, Concat, Linear, Reshape, Slice, Transpose
from trtc.ir.types import i8, interval
from trtc.passes.rewrite import Skip

Rule: TypeAlias = Callable[..., Any]
ROWS = 32   # twice 16, the kernel's: then it reads as many bytes of i8 as a product reads of 16-bit weights


@cache
def plugin_rules(api: Api, wanted: bool) -> tuple[Rule, ...]:
    """The rules of an API.

    Args:
        wanted: kernels are asked for; otherwise only those that are in the graph already are plugins.
    """

    def integer_linear(op: Linear, graph: Graph) -> Value | Skip | None:
        """linear(x, q * scale of each row)  ->  fused_linear(x, q, scale), of 8-bit integers"""
        found = integers(op.weight) if graph.is_constant(op.weight) else None
        if found is None or found.dtype != i8 or found.zero:
            return None
        rows, columns = found.sizes
        if found.block != (1, columns):
            return Skip(f"a scale is of {found.block[0]} rows and {found.block[1]} columns, but must be of a row")
        scales = _stored(found.scale)
        if scales.dtype != op.x.dtype:
            return Skip(f"the weight has scales of {scales.dtype}, but must have {op.x.dtype} ones, as x")
        most = _most_rows(op.x, graph)
        if most > ROWS:
            return Skip(f"x has up to {most} rows, but the kernel is quick for {ROWS} at most")
        made = FusedLinear(op.x, Cast(found.q, i8), Reshape(scales, (rows,)), op.bias)
        return Skip(why) if (why := refuses(made, api)) else made

    def others(op: Op) -> Skip | None:
        """an op that only kernels compute, where none does"""
        return Skip(why) if is_kernels(type(op)) and (why := refuses(op, api)) else None

    return (*((integer_linear,) if wanted else ()), others)


def _stored(scales: Value) -> Value:
    """Scales before they were widened."""
    match scales:
        case Cast(x) if x.dtype.is_float:
            return _stored(x)
        case Reshape(x) | Slice(x) | Transpose(x) | Broadcast(x):
            return scales.with_attributes(x=_stored(x))
        case Concat(parts, axis):
            narrow = tuple(map(_stored, parts))
            return Concat(narrow, axis) if len({part.dtype for part in narrow}) == 1 else scales
        case _:
            return scales


def _most_rows(x: Value, graph: Graph) -> int:
    rows = 1
    for size in x.shape[:-1]:
        rows *= interval(size, graph.bounds)[1]
    return rows
