"""Weights of 8 and 4 bits that stay so: those of expressions ``(q - zeros) * scale`` are given to the kernels."""

from __future__ import annotations

from trtc.backend.integers import Integers, integers
from trtc.backend.kernels import ARCHITECTURES, Kernel, find
from trtc.backend.kernels.ops import FusedLinear
from trtc.ir.graph import Graph
from trtc.ir.op import Value
from trtc.ir.ops import Cast, Linear, Reshape
from trtc.ir.types import DType, i4, i8
from trtc.passes.rewrite import Skip


def weight_only(op: Linear, graph: Graph) -> Value | Skip | None:
    """linear(x, (q - zeros) * scale)  ->  fused_linear(x, q, scales, zeros), where a kernel takes the layout"""
    if not graph.is_constant(op.weight) or op.dtype.bits == 32 or not (found := integers(op.weight)):
        return None
    if found.block == (1, 1):
        return Skip("each number has a scale of its own, as where groups are of columns in any order (act-order)")
    why = ""
    for stored in (i4, i8) if found.dtype == i4 else (found.dtype,):
        fused = _fused(op, found.by_row, stored)
        kernel = find(fused, max(ARCHITECTURES))
        if isinstance(kernel, Kernel):
            return fused
        why = why or kernel
    return Skip(why)


def _fused(op: Linear, found: Integers, stored: DType) -> FusedLinear:
    rows, groups = found.scale.shape
    shape = (rows,) if groups == 1 else (rows, groups)
    scales, zeros = (x and Reshape(Cast(x, op.dtype), shape) for x in (found.scale, found.zero))
    return FusedLinear(op.x, Cast(found.q, stored), scales, op.bias, zeros=zeros)
