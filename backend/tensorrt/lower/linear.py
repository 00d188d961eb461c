"""Matrix products and the embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trtc.backend.tensorrt.lower.registry import lower
from trtc.ir.ops import Embedding, Linear, MatMul

if TYPE_CHECKING:
    from trtc.backend.tensorrt.emit import Emitter


@lower(MatMul)
def matmul(op: MatMul, emit: Emitter) -> Any:
    plain = emit.trt.MatrixOperation.NONE
    a, b = emit.aligned(op.a, op.b)
    return emit.add("matrix_multiply", a, plain, b, plain)


@lower(Linear)
def linear(op: Linear, emit: Emitter) -> Any:
    kinds, rank = emit.trt.MatrixOperation, op.type.rank
    y = emit.add("matrix_multiply", emit[op.x], kinds.NONE, emit.lifted(op.weight, rank), kinds.TRANSPOSE)
    if op.bias:
        y = emit.add("elementwise", y, emit.lifted(op.bias, rank), emit.trt.ElementWiseOperation.SUM, part="bias")
    return y


@lower(Embedding)
def embedding(op: Embedding, emit: Emitter) -> Any:
    return emit.add("gather_v2", emit[op.table], emit[op.ids], emit.trt.GatherMode.DEFAULT, axis=0)
