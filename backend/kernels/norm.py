"""Kernels of normalisation, alone and with the residual's sum."""

from __future__ import annotations

from trtc.backend.kernels.kernel import kernel
from trtc.backend.kernels.launch import Launch, Pointer, Scalar, operand, product, result
from trtc.backend.kernels.ops import AddLayerNorm, AddRMSNorm
from trtc.backend.kernels.rules import fixed, last_axis, rows, threads, vector
from trtc.ir.ops import LayerNorm, RMSNorm
from trtc.ir.types import TensorType

MOST = 16384   # elements of a row: a block of 1,024 threads holds them in registers


def _serves(op: RMSNorm | LayerNorm | AddRMSNorm | AddLayerNorm) -> str | None:
    why = last_axis(op.x)
    if why is None and fixed(op.x.shape[-1]) > MOST:
        return f"a row has {op.x.shape[-1]} elements, but must have {MOST} at most"
    return why


@kernel("norm.cu", _serves)
def rms_norm(op: RMSNorm) -> Launch:
    return _launch(op.x.type, op.eps, (result(),))


@kernel("norm.cu", _serves)
def add_rms_norm(op: AddRMSNorm) -> Launch:
    return _launch(op.x.type, op.eps, (operand("skip"), result(1), result()), add=True)


@kernel("norm.cu", _serves)
def layer_norm(op: LayerNorm) -> Launch:
    return _launch(op.x.type, op.eps, (result(),), centred=True, bias=op.bias is not None)


@kernel("norm.cu", _serves)
def add_layer_norm(op: AddLayerNorm) -> Launch:
    last = (operand("skip"), result(1), result())
    return _launch(op.x.type, op.eps, last, add=True, centred=True, bias=op.bias is not None)


def _launch(
    x: TensorType, eps: float, last: tuple[Pointer, ...],
    *, add: bool = False, centred: bool = False, bias: bool = False,
) -> Launch:   # fmt: skip
    """A block normalises one row, which it holds in registers."""
    hidden = fixed(x.shape[-1])
    width = vector(x.dtype, hidden)
    block = threads(hidden // width)
    defines = {
        "T": x.dtype.name, "HIDDEN": hidden, "VECTOR": width, "THREADS": block,
        "ADD": int(add), "CENTRED": int(centred), "BIAS": int(bias),
    }   # fmt: skip
    first = (operand("x"), operand("weight"), *((operand("bias"),) if bias else ()))
    arguments = (*first, *last, Scalar("f32", eps))
    return Launch("norm_rows", defines, (product(*rows(x)), 1, 1), (block, 1, 1), arguments)
