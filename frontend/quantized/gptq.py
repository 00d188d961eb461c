"""GPTQ, as AutoGPTQ and GPTQModel pack it: 2, 3, 4 or 8 bits, rows of a column in one run of bits.

Frantar et al., 2022, arXiv:2210.17323; the layout as auto_gptq/nn_modules/qlinear packs it.
"""

from __future__ import annotations

from trtc.errors import TrtcError
from trtc.frontend.config import Keys
from trtc.frontend.quantized.base import Dequantize, Stored, scaled
from trtc.ir.op import Value
from trtc.ir.ops import Add, Gather, Less, Transpose, Unpack, Where, scalar
from trtc.ir.types import i32, i64, u8

BITS = (2, 3, 4, 8)
FORMATS = ("gptq", "gptq_v2")   # the first stores each zero less 1


def read(keys: Keys) -> Dequantize:
    """What makes a weight of qweight i32[in*bits/32, out], qzeros i32[in/g, out*bits/32], scales and g_idx i32[in]."""
    bits = keys.positive("bits")
    if bits not in BITS:
        raise keys.wrong("bits", bits, f"one of {', '.join(map(str, BITS))}")
    form = keys.choice("checkpoint_format", FORMATS, default="gptq")
    size = keys.get(int, "group_size", default=-1)
    if size != -1 and size < 1:
        raise keys.wrong("group_size", size, "at least 1, or -1 for all columns")
    ordered = keys.get(bool, "desc_act", default=False)
    if any(keys.values.get(name) for name in ("dynamic", "is_marlin_format")):
        name = next(name for name in ("dynamic", "is_marlin_format") if keys.values.get(name))
        raise keys.wrong(name, keys.values[name], "absent: one format for all layers")

    def dequantize(stored: Stored, rows: int, columns: int) -> Value | None:
        if not stored.has("qweight"):
            return None
        if rows * bits % 32 or columns * bits % 32:
            raise TrtcError(f"{stored.stem} is [{rows}, {columns}], but {bits} bits each must fill words of 32")
        groups = 1 if size == -1 else -(-columns // size)
        q = Unpack(Transpose(stored("qweight", columns * bits // 32, rows, of=(i32,)), (1, 0)), bits)
        zeros = Unpack(stored("qzeros", groups, rows * bits // 32, of=(i32,)), bits)
        zeros = Transpose(_plus_one(zeros, bits) if form == "gptq" else zeros, (1, 0))
        scales = Transpose(stored("scales", groups, rows), (1, 0))
        if ordered or (size != -1 and columns % size):   # the columns of a group lie anywhere, or the last has fewer
            of = stored("g_idx", columns, of=(i32, i64))
            scales, zeros = Gather(scales, of, axis=1), Gather(zeros, of, axis=1)
        return scaled(q, scales, zeros)

    return dequantize


def _plus_one(zeros: Value, bits: int) -> Value:
    """The next integer; after the greatest of so many bits, 0."""
    return Where(Less(zeros, scalar((1 << bits) - 1, u8)), Add(zeros, scalar(1, u8)), scalar(0, u8))
