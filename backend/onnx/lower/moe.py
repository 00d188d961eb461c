"""Mixtures of experts."""

from __future__ import annotations

import numpy as np

from trtc.backend.onnx.lower.registry import MS, Emitter, lower
from trtc.backend.onnx.ops import MoE
from trtc.ir import ops as ir

LEAST, NEVER = 1e-30, -1e30   # a share's logarithm stays above that of an expert that is not chosen


@lower(ir.TopK)
def top_k(op: ir.TopK, to: Emitter) -> str:
    _, places = to.add("TopK", to[op.x], to.literal([op.k]), outputs=2, axis=-1)
    return to.add("Cast", places, to=to.onnx.TensorProto.INT32)


@lower(MoE)
def moe(op: MoE, to: Emitter) -> str:
    """The kernel makes shares by a softmax of what it is given: of logarithms of ours, it gives ours over their sum."""
    picks, experts = op.chosen.shape[1], op.proj.shape[0]
    assert isinstance(picks, int) and isinstance(experts, int)
    none = to.add("Expand", to.literal(NEVER, np.float32), to.shape((op.x.shape[0], experts)))
    logs = to.add("Log", to.add("Max", to[op.shares], to.literal(LEAST, np.float32)))
    scores = to.add("ScatterElements", none, to[op.chosen], logs, axis=1)
    y = to.add(
        "MoE", to[op.x], scores, to[op.fc_gate], "", to[op.proj], domain=MS, k=picks, activation_type="swiglu",
        swiglu_fusion=1, activation_alpha=1.0, activation_beta=0.0, normalize_routing_weights=1,
    )   # fmt: skip
    total = to.add("ReduceSum", to[op.shares], to.literal([1]), keepdims=1)
    return to.add("Mul", y, total)
