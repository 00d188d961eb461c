"""Attention over a KV cache, and the cache's update."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trtc.backend.tensorrt.lower.registry import lower
from trtc.ir.ops import Attention, KVCacheUpdate

if TYPE_CHECKING:
    from trtc.backend.tensorrt.emit import Emitter


@lower(Attention)
def attention(op: Attention, emit: Emitter) -> Any:
    """the layer has no scale: q is multiplied; it decomposes by itself where no fused kernel fits"""
    trt, q = emit.trt, emit[op.q]
    if op.scale != 1:
        q = emit.add("elementwise", q, emit.number(op.scale, op.q.dtype, 4), trt.ElementWiseOperation.PROD, part="scale")
    causal = trt.CausalMaskKind.LOWER_RIGHT if op.causal else trt.CausalMaskKind.NONE
    settings: dict[str, Any] = {"decomposable": True}
    if op.lengths:
        settings["key_value_lengths"] = emit[op.lengths]
    if op.mask:
        settings["mask"] = emit.lifted(op.mask, 4)
    softmax = trt.AttentionNormalizationOp.SOFTMAX
    return emit.add("attention_v2", q, emit[op.k], emit[op.v], softmax, causal, **settings)


@lower(KVCacheUpdate)
def kv_cache_update(op: KVCacheUpdate, emit: Emitter) -> Any:
    mode = emit.trt.KVCacheMode.LINEAR
    return emit.add("kv_cache_update", emit[op.cache], emit[op.new], emit[op.start], mode)
