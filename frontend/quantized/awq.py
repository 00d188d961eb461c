"""AutoAWQ: 4-bit weights, eight columns a word in the order of its kernels.

Lin et al., 2023, arXiv:2306.00978; the layout as awq/modules/linear/gemm.py of AutoAWQ packs it.
"""

from __future__ import annotations

from trtc.frontend.config import Keys
from trtc.frontend.quantized.base import Dequantize, Stored, scaled
from trtc.ir.op import Value
from trtc.ir.ops import Reshape, Transpose, Unpack
from trtc.ir.types import i32

FIELDS = 8   # of a word


def read(keys: Keys) -> Dequantize:
    """What makes a weight of qweight i32[in, out/8], qzeros i32[in/g, out/8] and scales float[in/g, out]."""
    bits = keys.get(int, "bits", "w_bit", default=4)
    if bits != 4:
        raise keys.wrong("bits", bits, "4")
    version = keys.get(str, "version", default="gemm")
    if version.lower() != "gemm":
        raise keys.wrong("version", version, "gemm", "help: quantise the model with version GEMM")
    size = keys.get(int, "group_size", "q_group_size", default=128)
    if size != -1 and size < 1:
        raise keys.wrong("group_size", size, "at least 1, or -1 for all columns")

    def dequantize(stored: Stored, rows: int, columns: int) -> Value | None:
        if not stored.has("qweight"):
            return None
        if rows % FIELDS:
            raise stored.wrong("qweight", f"of a multiple of {FIELDS} columns in all, not {rows}")
        groups = 1 if size == -1 else columns // size
        if size != -1 and columns % size:
            raise keys.wrong("group_size", size, f"a divisor of {columns}, the columns of {stored.stem}")
        q = _in_order(stored("qweight", columns, rows // FIELDS, of=(i32,)))
        zeros = _in_order(stored("qzeros", groups, rows // FIELDS, of=(i32,)))
        return Transpose(scaled(q, stored("scales", groups, rows), zeros), (1, 0))

    return dequantize


def _in_order(words: Value) -> Value:
    """The fields of words, each of columns 0, 2, 4, 6, 1, 3, 5, 7: u8[N, 8 * words] in order."""
    count, each = words.shape
    fields = Reshape(Unpack(words, 4), (count, each, 2, 4))
    return Reshape(Transpose(fields, (0, 1, 3, 2)), (count, each * FIELDS))
