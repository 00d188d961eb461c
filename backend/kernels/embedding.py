"""The kernel of embedding."""

from __future__ import annotations

from trtc.backend.kernels.kernel import kernel
from trtc.backend.kernels.launch import Launch, operand, product, result
from trtc.backend.kernels.rules import fixed, last_axis, threads, vector
from trtc.ir.ops import Embedding
from trtc.ir.types import i64


def _serves(op: Embedding) -> str | None:
    return last_axis(op.table)


@kernel("embedding.cu", _serves)
def embedding(op: Embedding) -> Launch:
    """A block copies the row of one token."""
    hidden = fixed(op.table.shape[1])
    width = vector(op.dtype, hidden)
    block = threads(hidden // width, most=512)
    defines = {
        "T": op.dtype.name, "ID": "long long" if op.ids.dtype == i64 else "int",
        "HIDDEN": hidden, "VECTOR": width, "THREADS": block,
    }   # fmt: skip
    tokens = product(*op.ids.shape)
    return Launch("copy_rows", defines, (tokens, 1, 1), (block, 1, 1), (operand("table"), operand("ids"), result()))
