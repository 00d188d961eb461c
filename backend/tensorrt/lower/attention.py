"""Attention over a KV cache, and the cache's update."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from trtc.backend.tensorrt.bindings import dtype_of
from trtc.backend.tensorrt.lower.registry import lower
from trtc.ir.ops import Attention, KVCacheUpdate, PackedAttention
from trtc.ir.types import f32

if TYPE_CHECKING:
    from trtc.backend.tensorrt.emit import Emitter


@lower(Attention)
def attention(op: Attention, emit: Emitter) -> Any:
    """the layer has no scale: q is multiplied; it decomposes by itself where no fused kernel fits"""
    trt = emit.trt
    settings: dict[str, Any] = {"decomposable": True}
    if op.lengths:
        settings["key_value_lengths"] = emit[op.lengths]
    if op.mask:
        settings["mask"] = emit.lifted(op.mask, 4)
    inputs = scaled(op, emit), emit[op.k], emit[op.v], trt.AttentionNormalizationOp.SOFTMAX
    if not hasattr(trt, "CausalMaskKind"):   # before 11.0, where causal attention is a mask by now
        return emit.add("attention", *inputs, False, **settings)
    causal = trt.CausalMaskKind.LOWER_RIGHT if op.causal else trt.CausalMaskKind.NONE
    return emit.add("attention_v2", *inputs, causal, **settings)


def scaled(op: Attention | PackedAttention, emit: Emitter) -> Any:
    """q times the scale; in f32 where q's dtype would round the scale itself, which shifts every score"""
    q, dtype = emit[op.q], op.q.dtype
    if op.scale == 1:
        return q
    exact = float(np.array(op.scale, dtype.numpy)) == op.scale
    q = q if exact else emit.add("cast", q, emit.trt.float32, part="widen")
    product = emit.trt.ElementWiseOperation.PROD
    scale = emit.number(op.scale, dtype if exact else f32, op.q.type.rank)
    q = emit.add("elementwise", q, scale, product, part="scale")
    return q if exact else emit.add("cast", q, dtype_of(emit.trt, dtype), part="narrow")


@lower(KVCacheUpdate)
def kv_cache_update(op: KVCacheUpdate, emit: Emitter) -> Any:
    mode = emit.trt.KVCacheMode.LINEAR
    return emit.add("kv_cache_update", emit[op.cache], emit[op.new], emit[op.start], mode)
