"""Kernels along one axis: sums, means, greatest elements, the softmax; the places of the greatest of a row."""

from __future__ import annotations

from trtc.backend.kernels.kernel import kernel
from trtc.backend.kernels.launch import Launch, Pointer, Scalar, ceildiv, count, operand, product, result
from trtc.backend.kernels.pointwise import C_TYPES
from trtc.backend.kernels.rules import fixed, last_axis, rows, threads, vector
from trtc.ir.ops import ReduceMax, ReduceMean, ReduceSum, Softmax, TopK
from trtc.ir.ops.reduce import Reduce

WARPS = 8
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
    """Blocks share a row; the last of them ranks what they kept."""
    width, many = fixed(op.x.shape[-1]), product(*rows(op.x.type))
    own = -(-2 * op.k // 1024)   # groups of a thread: twice as many as picks in all
    block, step = threads(max(128, -(-2 * op.k // own))), vector(op.x.dtype, width)
    least, most = max(own, step), 32 if block <= 256 else 16   # elements of a thread, in registers
    each = min(most, least * -(-width // (block * least)))
    parts = -(-width // (block * each))
    defines = {
        "T": op.x.dtype.name, "WIDTH": width, "VECTOR": step, "PICKS": op.k, "EACH": each, "OWN": own, "PARTS": parts,
        "THREADS": block,
    }   # fmt: skip
    arguments = (operand("x"), result(), Pointer("workspace"), Pointer("counters"))
    return Launch(
        "top_k", defines, (parts, many, 1), (block, 1, 1), arguments,
        shared_bytes=8 * (block * own + op.k * each // own),
        workspace_bytes=product(many, 8 * parts * block * own), counter_bytes=product(many, 4),
    )   # fmt: skip
