"""Mixtures of experts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trtc.backend.tensorrt.lower.registry import lower
from trtc.ir.ops import TopK

if TYPE_CHECKING:
    from trtc.backend.tensorrt.emit import Emitter


@lower(TopK)
def top_k(op: TopK, emit: Emitter) -> Any:
    axes = 1 << (op.x.type.rank - 1)
    return emit.layer("topk", emit[op.x], emit.trt.TopKOperation.MAX, op.k, axes).get_output(1)
