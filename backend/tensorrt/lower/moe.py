"""Mixtures of experts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trtc.backend.tensorrt.lower.registry import lower
from trtc.ir.ops import Experts, TopK

if TYPE_CHECKING:
    from trtc.backend.tensorrt.emit import Emitter


@lower(TopK)
def top_k(op: TopK, emit: Emitter) -> Any:
    axes = 1 << (op.x.type.rank - 1)
    return emit.layer("topk", emit[op.x], emit.trt.TopKOperation.MAX, op.k, axes).get_output(1)


@lower(Experts)
def experts(op: Experts, emit: Emitter) -> Any:
    """the layer takes tokens of sequences, [B, S, H], and weights [E, H, I] and [E, I, H]"""
    weights = [
        emit.add("shuffle", emit[w], part=part, first_transpose=(0, 2, 1))
        for w, part in ((op.fc, "fc"), (op.gate, "gate"), (op.proj, "proj"))
    ]
    tokens = [
        emit.reshape(emit[v], v.shape, (1, *v.shape), part)
        for v, part in ((op.x, "tokens"), (op.chosen, "chosen"), (op.shares, "shares"))
    ]
    layer = emit.layer("moe", *tokens)
    layer.set_gated_weights(*weights, emit.trt.MoEActType.SILU)
    emit.diagnostics.check(op)
    return emit.reshape(layer.get_output(0), (1, *op.shape), op.shape, "join")
