"""Ops that kernels compute and the IR has no single op for, by kind."""

from trtc.backend.kernels.ops.linear import FusedLinear, Gated
from trtc.backend.kernels.ops.norm import AddLayerNorm, AddRMSNorm

__all__ = ["AddLayerNorm", "AddRMSNorm", "FusedLinear", "Gated"]
