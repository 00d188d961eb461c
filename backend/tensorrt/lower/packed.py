"""Attention and cache updates of packed tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trtc.backend.tensorrt.lower.attention import scaled
from trtc.backend.tensorrt.lower.registry import lower
from trtc.ir.ops import PackedAttention, PackedKVCacheUpdate

if TYPE_CHECKING:
    from trtc.backend.tensorrt.emit import Emitter


@lower(PackedAttention)
def packed_attention(op: PackedAttention, emit: Emitter) -> Any:
    """never in several kernels: TensorRT has no other form of it"""
    trt = emit.trt
    kinds = trt.AttentionNormalizationOp.SOFTMAX, trt.CausalMaskKind.LOWER_RIGHT
    form, lengths = trt.AttentionIOForm.PACKED_NHD, emit[op.lengths]
    return emit.add(
        "attention_v2", scaled(op, emit), emit[op.k], emit[op.v], *kinds, query_form=form,
        query_lengths=emit[op.starts], key_value_lengths=lengths,
    )   # fmt: skip


@lower(PackedKVCacheUpdate)
def packed_kv_cache_update(op: PackedKVCacheUpdate, emit: Emitter) -> Any:
    trt = emit.trt
    operands, form = (emit[op.cache], emit[op.new], emit[op.start]), trt.AttentionIOForm.PACKED_NHD
    settings = {"update_form": form, "update_lengths": emit[op.starts]}
    return emit.add("kv_cache_update", *operands, trt.KVCacheMode.LINEAR, **settings)
