"""Activation functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trtc.backend.tensorrt.lower.registry import lower
from trtc.ir.ops import GELU, ReLU, Sigmoid, Tanh

if TYPE_CHECKING:
    from trtc.backend.tensorrt.emit import Emitter


@lower(ReLU, Sigmoid, Tanh)
def activation(op: ReLU | Sigmoid | Tanh, emit: Emitter) -> Any:
    return emit.add("activation", emit[op.x], getattr(emit.trt.ActivationType, op.name.upper()))


@lower(GELU)
def gelu(op: GELU, emit: Emitter) -> Any:
    kinds = emit.trt.ActivationType
    return emit.add("activation", emit[op.x], kinds.GELU_TANH if op.tanh else kinds.GELU_ERF)
