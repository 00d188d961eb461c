"""The residual's sum and its norm, in one pass over the row."""

from __future__ import annotations

from trtc.backend.fused import SumAndRMSNorm
from trtc.ir.op import Op, Value, require
from trtc.ir.ops import Add, LayerNorm
from trtc.ir.types import TensorType


class AddRMSNorm(SumAndRMSNorm, name="cuda.add_rms_norm"):
    """``rms_norm(x + skip)``, and the sum.

    Operands:
        x, skip: float[..., H].
        weight: float[H], the gain.
    Attributes:
        eps: as of rms_norm.
    Result:
        The norm, then ``x + skip``, both of x's type; the norm is that of the sum as rounded to it.
    """


class AddLayerNorm(Op, name="cuda.add_layer_norm"):
    """``layer_norm(x + skip)``, and the sum.

    Operands:
        x, skip: float[..., H].
        weight: float[H], the gain.
        bias: float[H], or none.
    Attributes:
        eps: as of layer_norm.
    Result:
        The norm, then ``x + skip``, both of x's type; the norm is that of the sum as rounded to it.
    """

    x: Value
    skip: Value
    weight: Value
    bias: Value | None = None
    eps: float = 1e-5

    def infer(self) -> tuple[TensorType, TensorType]:
        require(self.x.type == self.skip.type, f"x is {self.x.type}, but skip is {self.skip.type}")
        return LayerNorm(self.x, self.weight, self.bias, eps=self.eps).type, self.x.type

    def decompose(self) -> tuple[Value, ...]:
        total = Add(self.x, self.skip)
        return LayerNorm(total, self.weight, self.bias, eps=self.eps), total
