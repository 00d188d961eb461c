"""Weights of 8 and 4 bits that stay so: those of constant expressions ``integers * scale`` are given to the kernels."""

from __future__ import annotations

from trtc.backend.integers import integers
from trtc.backend.kernels import ARCHITECTURES, Kernel, find
from trtc.backend.kernels.ops import GROUP, FusedLinear
from trtc.ir.graph import Graph
from trtc.ir.op import Value
from trtc.ir.ops import Broadcast, Cast, Linear, Reshape
from trtc.ir.types import i4, i8
from trtc.passes.rewrite import Skip


def weight_only(op: Linear, graph: Graph) -> Value | Skip | None:
    """linear(x, integers * scale)  ->  fused_linear(x, integers, scales), where a kernel takes the layout"""
    if not graph.is_constant(op.weight) or op.dtype.bits == 32 or not (found := integers(op.weight)):
        return None
    (rows, columns), (down, across) = found.sizes, found.block
    stored = i4 if found.bits == 4 and columns % GROUP == 0 and across % GROUP == 0 else i8
    if down > 1 or (stored == i8 and across < columns):
        return Skip(f"a scale is of {down} rows and {across} columns")
    scales = Cast(found.scale, op.dtype)
    if stored == i4:
        parts, each = columns // across, across // GROUP
        spread = Broadcast(Reshape(scales, (rows, parts, 1)), (rows, parts, each))
        scales = Reshape(spread, (rows, columns // GROUP))
    else:
        scales = Reshape(scales, (rows,))
    fused = FusedLinear(op.x, Cast(found.q, stored), scales, op.bias)
    kernel = find(fused, max(ARCHITECTURES))
    return fused if isinstance(kernel, Kernel) else Skip(kernel)
