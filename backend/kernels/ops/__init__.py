"""Ops that kernels compute and the IR has no single op for, by kind."""

from trtc.backend.kernels.ops.attention import AppendAndAttend, DecodeAttention, PrefillAttention, RopeAndAppend
from trtc.backend.kernels.ops.linear import PART, Dequantize, FusedLinear, Gated, LinearForNorm, capped_linear
from trtc.backend.kernels.ops.moe import ExpertsInner, ExpertsOuter, Route, experts_in_two
from trtc.backend.kernels.ops.norm import AddLayerNorm, AddRMSNorm
from trtc.backend.kernels.ops.sampling import ArgMax, Sample, StopCheck

__all__ = [
    "PART",
    "AddLayerNorm",
    "AddRMSNorm",
    "AppendAndAttend",
    "ArgMax",
    "DecodeAttention",
    "Dequantize",
    "ExpertsInner",
    "ExpertsOuter",
    "FusedLinear",
    "Gated",
    "LinearForNorm",
    "PrefillAttention",
    "RopeAndAppend",
    "Route",
    "Sample",
    "StopCheck",
    "capped_linear",
    "experts_in_two",
]
