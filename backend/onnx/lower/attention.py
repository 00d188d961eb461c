"""Rotary positions, KV caches and attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from trtc.backend.onnx.lower.registry import MS, Emitter, lower
from trtc.backend.onnx.ops import GroupQueryAttention
from trtc.ir import ops as ir

NO_SINK = -1e30   # e ** of it is 0


@lower(ir.Rope)
def rope(op: ir.Rope, to: Emitter) -> str:
    turned, size = 2 * int(str(op.cos.shape[-1])), op.x.shape[-1]
    partial: dict[str, Any] = {} if turned == size else {"rotary_embedding_dim": turned}
    return to.add("RotaryEmbedding", to[op.x], to[op.cos], to[op.sin], interleaved=int(op.interleaved), **partial)


@lower(ir.KVCacheUpdate)
def kv_cache_update(op: ir.KVCacheUpdate, to: Emitter) -> str:
    start = to.add("Cast", to[op.start], to=to.onnx.TensorProto.INT64)
    return to.add("TensorScatter", to[op.cache], to[op.new], start, axis=2)


@lower(GroupQueryAttention)
def group_query_attention(op: GroupQueryAttention, to: Emitter) -> tuple[str, str, str]:
    last, longest = _lengths(op, to)
    inputs = [to[op.qkv], "", "", to[op.key_cache], to[op.value_cache], last, longest]
    inputs += [to[op.cos], to[op.sin]] if op.cos and op.sin else ["", ""]
    inputs += ["", _bias(op, to, longest)]
    if not op.flash:   # a sink that draws nothing selects the other kernel
        inputs += [to.literal(np.full(op.heads, NO_SINK), np.float32)]
    return to.add(
        "GroupQueryAttention", *inputs, outputs=3, domain=MS,
        num_heads=op.heads, kv_num_heads=op.kv_heads, scale=op.scale, softcap=op.softcap,
        local_window_size=op.window or -1, do_rotary=int(op.cos is not None), rotary_interleaved=int(op.interleaved),
    )   # fmt: skip


def _lengths(op: GroupQueryAttention, to: Emitter) -> tuple[str, str]:
    """What the kernel asks for in place of lengths: i32[B] of each last position, and the greatest length, i32[]."""
    key = ("lengths", op.lengths)
    if key not in to.shared:
        last = to.add("Sub", to[op.lengths], to.literal(1, np.int32))
        to.shared[key] = last, to.add("ReduceMax", to[op.lengths], keepdims=0)
    return to.shared[key]


def _bias(op: GroupQueryAttention, to: Emitter, longest: str) -> str:
    """f32[1, Hq, S, T], what each key adds to the scores, T being the greatest length; empty without slopes."""
    key = ("bias", op.lengths, op.slopes)
    if op.slopes and key not in to.shared:
        keys = to.add("Range", to.literal(0, np.int32), longest, to.literal(1, np.int32))
        last = to.add("Sub", longest, to.literal(1, np.int32))   # to 0 from below: what is near weighs, and is exact
        away = to.add("Cast", to.add("Sub", keys, last), to=to.onnx.TensorProto.FLOAT)
        rise = to.add("Mul", to.add("Reshape", to[op.slopes], to.literal([1, op.heads, 1, 1])), away)
        count = to.add("Cast", to.add("Reshape", longest, to.literal([1])), to=to.onnx.TensorProto.INT64)
        shape = to.add("Concat", to.literal([1, op.heads]), to.size(op.qkv.shape[1]), count, axis=0)
        to.shared[key] = to.add("Expand", rise, shape)
    return to.shared[key] if op.slopes else ""
