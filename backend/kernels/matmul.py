"""The kernel of matrix products of activations, for what attention and dense layers do not cover."""

from __future__ import annotations

from trtc.backend.kernels.indexing import Sizes
from trtc.backend.kernels.kernel import kernel
from trtc.backend.kernels.launch import Launch, ceildiv, count, operand, product, result
from trtc.backend.kernels.rules import float_type
from trtc.ir.ops import MatMul
from trtc.ir.types import Size

SIDE = 16   # of a tile


@kernel("matmul_plain.cu", lambda op: float_type(op.a))
def plain_matmul(op: MatMul) -> Launch:
    """A block makes a tile of one product."""
    batch, (rows, inner), columns = op.shape[:-2], op.a.shape[-2:], op.shape[-1]
    sizes = Sizes()
    defines = {
        "T": op.dtype.name, "SIDE": SIDE, "COORDINATES": sizes.split("blockIdx.y", batch),
        "A_AT": _at(sizes, op.a.shape[:-2], len(batch)), "B_AT": _at(sizes, op.b.shape[:-2], len(batch)),
        "SIZES": sizes.parameters,
    }   # fmt: skip
    grid = (product(ceildiv(rows, SIDE), ceildiv(columns, SIDE)), product(*batch), 1)
    arguments = (operand("a"), operand("b"), result(), count(rows), count(inner), count(columns), *sizes.arguments)
    return Launch("plain_matmul", defines, grid, (SIDE * SIDE, 1, 1), arguments)


def _at(sizes: Sizes, shape: tuple[Size, ...], rank: int) -> str:
    """Which matrix of an operand belongs to a batch of so many axes."""
    return sizes.at([f"c{axis}" for axis in range(rank - len(shape), rank)], shape)
