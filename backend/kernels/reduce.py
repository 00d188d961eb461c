"""Kernels along one axis: sums, means, greatest elements, the softmax; the places of the greatest of a row."""

from __future__ import annotations

from trtc.backend.kernels.kernel import kernel
from trtc.backend.kernels.launch import Launch, Pointer, Scalar, ceildiv, count, operand, product, result
from trtc.backend.kernels.pointwise import C_TYPES
from trtc.backend.kernels.rules import fixed, last_axis, rows
from trtc.ir.ops import ReduceMax, ReduceMean, ReduceSum, Softmax, TopK
from trtc.ir.ops.reduce import Reduce

WARPS = 8
PART = 4096   # elements of a row that one block looks through for the greatest
MOST = 1024   # greatest elements of a row


def _served(op: Reduce | Softmax) -> str | None:
    return None if op.dtype in C_TYPES else f"it is {op.dtype}, which has no arithmetic"


@kernel("reduce.cu", _served)
def reduce_sum(op: ReduceSum) -> Launch:
    return _launch(op, 0)


@kernel("reduce.cu", _served)
def reduce_mean(op: ReduceMean) -> Launch:
    return _launch(op, 1)


@kernel("reduce.cu", _served)
def reduce_max(op: ReduceMax) -> Launch:
    return _launch(op, 2)


@kernel("reduce.cu", _served)
def softmax(op: Softmax) -> Launch:
    return _launch(op, 3)


def _launch(op: Reduce | Softmax, kind: int) -> Launch:
    """A warp takes one row."""
    shape, axis = op.x.shape, op.axis
    many = product(*shape[:axis], *shape[axis + 1 :])
    inner = product(*shape[axis + 1 :])
    defines: dict[str, int | str] = {"T": C_TYPES[op.dtype], "REDUCTION": kind, "WARPS": WARPS}
    arguments = (operand("x"), result(), Scalar("i64", many), count(shape[axis]), Scalar("i32", inner))
    return Launch("reduce_rows", defines, (ceildiv(many, WARPS), 1, 1), (32 * WARPS, 1, 1), arguments)


def _ranked(op: TopK) -> str | None:
    return last_axis(op.x) if op.k <= MOST else f"k is {op.k}, but must be {MOST} at most"


@kernel("top_k.cu", _ranked)
def top_k(op: TopK) -> Launch:
    """Blocks share a row; the last of them ranks what they found."""
    width, many = fixed(op.x.shape[-1]), product(*rows(op.x.type))
    part = PART if op.k < PART // 4 else 4 * PART
    parts = -(-width // part)
    defines = {
        "T": op.x.dtype.name, "WIDTH": width, "PICKS": op.k, "PART": part, "PARTS": parts, "THREADS": 256,
    }   # fmt: skip
    arguments = (operand("x"), result(), Pointer("workspace"), Pointer("counters"))
    return Launch(
        "top_k", defines, (parts, many, 1), (256, 1, 1), arguments,
        workspace_bytes=product(many, 8 * parts * op.k), counter_bytes=product(many, 4),
    )   # fmt: skip
