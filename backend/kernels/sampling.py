"""Kernels of the end of a step: the next token of each sequence, and whether it is the last."""

from __future__ import annotations

from trtc.backend.kernels.kernel import kernel
from trtc.backend.kernels.launch import Launch, Pointer, ceildiv, count, operand, product, result, text
from trtc.backend.kernels.ops import ArgMax, Sample, StopCheck
from trtc.backend.kernels.rules import fixed, last_axis, rows, vector
from trtc.ir.ops import TopK

PART = 8192   # logits of a block


def _one(op: TopK) -> str | None:
    return last_axis(op.x) if op.k == 1 else f"k is {op.k}, but must be 1"


@kernel("argmax.cu", _one)
def top_one(op: TopK) -> Launch:
    return _argmax(op)


@kernel("argmax.cu", lambda op: last_axis(op.x))
def argmax(op: ArgMax) -> Launch:
    return _argmax(op)


def _argmax(op: TopK | ArgMax) -> Launch:
    """Blocks share a row; the last of them compares what they found."""
    width, many = fixed(op.x.shape[-1]), product(*rows(op.x.type))
    parts = -(-width // PART)
    defines = {
        "T": op.x.dtype.name, "WIDTH": width, "VECTOR": vector(op.x.dtype, width), "PARTS": parts, "PART": PART,
        "THREADS": 256,
    }   # fmt: skip
    arguments = (operand("x"), result(), Pointer("workspace"), Pointer("counters"))
    return Launch(
        "argmax", defines, (parts, many, 1), (256, 1, 1), arguments,
        workspace_bytes=product(many, 8 * parts), counter_bytes=product(many, 4),
    )   # fmt: skip


@kernel("sample.cu", lambda op: last_axis(op.logits))
def sample(op: Sample) -> Launch:
    """A block draws the token of one sequence."""
    defines = {"T": op.logits.dtype.name, "WIDTH": fixed(op.logits.shape[1])}
    given = (operand(f.name) for f in op.fields)
    bins = 4 * (4 * 2048 + 2048 + 1)   # struct Bins
    return Launch("sample", defines, (text(op.logits.shape[0]), 1, 1), (1024, 1, 1), (*given, result()), bins)


@kernel("stop_check.cu")
def stop_check(op: StopCheck) -> Launch:
    """A thread looks at one sequence."""
    batch = op.tokens.shape[0]
    arguments = (*(operand(f.name) for f in op.fields), result(), result(1), count(batch), count(op.stops.shape[0]))
    return Launch("stop_check", {"THREADS": 128}, (ceildiv(batch, 128), 1, 1), (128, 1, 1), arguments)
