"""What launch rules share: element types in CUDA C++, widths of accesses, numbers of threads."""

from __future__ import annotations

from trtc.ir.op import Value
from trtc.ir.types import DType, Size, TensorType, bf16, f16, f32

FLOATS = (f32, f16, bf16)


def fixed(size: Size) -> int:
    """A size that must be known at compile time."""
    assert isinstance(size, int), f"{size} is known only at run time"
    return size


def float_type(value: Value) -> str | None:
    """Why a value's element type is not served."""
    return None if value.dtype in FLOATS else f"it is {value.dtype}, but must be f32, f16 or bf16"


def last_axis(value: Value) -> str | None:
    """Why a value is not served: its element type, or a last axis that is known only at run time."""
    if not isinstance(value.shape[-1], int):
        return f"its last axis is {value.shape[-1]}, but must be known at compile time"
    return float_type(value)


def vector(dtype: DType, *sizes: int) -> int:
    """The most elements, in 16 bytes, of which all these sizes are multiples.

    >>> vector(bf16, 4096, 8), vector(f32, 6), vector(f16, 7)
    (8, 2, 1)
    """
    width = 128 // dtype.bits
    while any(size % width for size in sizes):
        width //= 2
    return width


def threads(items: int, most: int = 1024) -> int:
    """Whole warps, one thread an item, up to ``most``.

    >>> threads(512), threads(40), threads(5000)
    (512, 64, 1024)
    """
    return min(most, -(-items // 32) * 32)


def rows(of: TensorType) -> tuple[Size, ...]:
    """All axes but the last."""
    return of.shape[:-1]
