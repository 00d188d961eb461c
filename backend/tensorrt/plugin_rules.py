"""Rules to kernels as plugins, where one helps; ``--explain`` says why they were not applied."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

from trtc.backend.kernels.ops import FusedLinear
from trtc.backend.tensorrt.api import Api
from trtc.backend.tensorrt.plugins import is_kernels, refuses
from trtc.ir.graph import Graph
from trtc.ir.op import Op, Value
from trtc.ir.ops import Cast, Concat, Linear, Mul, Reshape
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
        if not graph.is_constant(op.weight) or (found := by_rows(op.weight)) is None:
            return None
        q, scales = found
        if scales.dtype != op.x.dtype:
            return Skip(f"the weight has scales of {scales.dtype}, but must have {op.x.dtype} ones, as x")
        rows = _most_rows(op.x, graph)
        if rows > ROWS:
            return Skip(f"x has up to {rows} rows, but the kernel is quick for {ROWS} at most")
        made = FusedLinear(op.x, q, scales, op.bias)
        return Skip(why) if (why := refuses(made, api)) else made

    def others(op: Op) -> Skip | None:
        """an op that only kernels compute, where none does"""
        return Skip(why) if is_kernels(type(op)) and (why := refuses(op, api)) else None

    return (*((integer_linear,) if wanted else ()), others)


def by_rows(weight: Value) -> tuple[Value, Value] | None:
    """i8[N, K] and a scale for each row, float[N] as it is stored, of an expression that multiplies them."""
    match weight:
        case Cast(x) if x.dtype.is_float:
            return by_rows(x)
        case Concat(parts, 0) if weight.type.rank == 2:
            found = [pair for part in parts if (pair := by_rows(part))]
            same = len(found) == len(parts) and len({scale.dtype for _, scale in found}) == 1
            return (Concat(tuple(q for q, _ in found), 0), Concat(tuple(s for _, s in found), 0)) if same else None
        case Mul(Cast(q), scale) if q.dtype == i8 and weight.shape == q.shape and scale.shape == (q.shape[0], 1):
            return q, Reshape(_stored(scale), (q.shape[0],))
        case _:
            return None


def _stored(scale: Value) -> Value:
    """A scale before it was widened or put into another shape."""
    return _stored(scale.x) if isinstance(scale, Cast | Reshape) else scale


def _most_rows(x: Value, graph: Graph) -> int:
    rows = 1
    for size in x.shape[:-1]:
        rows *= interval(size, graph.bounds)[1]
    return rows
