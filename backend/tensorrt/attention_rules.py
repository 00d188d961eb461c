"""Rules that bring attention into the form that TensorRT's fused kernels take, each with the reason for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from trtc.backend.tensorrt.api import Api
from trtc.backend.tensorrt.workarounds import needs
from trtc.ir.op import Value
from trtc.ir.ops import Attention, Broadcast, Concat, PackedAttention, Slice, scalar

Rule: TypeAlias = Callable[[Any], "Value | None"]

ALIGNED, WIDEST = 8, 256   # head sizes of fused kernels of 16-bit floats: multiples of, up to


def attention_rules(api: Api) -> tuple[Rule, ...]:
    """What is done to attention before the layers of an API take it, by the names of workarounds."""
    rules: Mapping[str, Rule] = {
        "one-mask": mask_attention, "no-lengths": mask_all, "one-head-size": pad_values, "odd-heads": pad_heads,
    }   # fmt: skip
    packed = (pad_packed,) if api.has("attention over packed tokens") else ()
    return (*(rule for name, rule in rules.items() if needs(api, name)), *packed)


def mask_attention(op: Attention) -> Value | None:
    """attention(window, or lengths and mask)  ->  attention(one mask)"""
    if op.softcap or op.slopes or not (op.window or (op.mask and (op.causal or op.lengths))):
        return None
    return _masked(op)


def mask_all(op: Attention) -> Value | None:
    """attention(lengths, causal)  ->  attention(mask)"""
    return _masked(op) if not (op.softcap or op.slopes) and (op.window or op.causal or op.lengths) else None


def _masked(op: Attention) -> Value:
    return Attention(op.q, op.k, op.v, None, op.visible(), scale=op.scale, causal=False)


def pad_heads(op: Attention) -> Value | None:
    """attention of heads of 20  ->  of 24, the rest zero"""
    head = op.q.shape[3]
    assert isinstance(head, int)
    if not odd_heads(op):
        return None

    new = {x: _padded(x, -head % ALIGNED) for x in (op.q, op.k, op.v)}
    return Slice(op.with_operands(new), 3, 0, head)


def pad_values(op: Attention) -> Value | None:
    """attention of heads of 192 over values of 128  ->  over values of 192, the rest zero"""
    head, size = op.q.shape[3], op.v.shape[3]
    assert isinstance(head, int) and isinstance(size, int)
    if op.softcap or size >= head:
        return None
    return Slice(op.with_operands({op.v: _padded(op.v, head - size)}), 3, 0, size)


def pad_packed(op: PackedAttention) -> Value | None:
    """packed attention of heads of odd sizes, or of two  ->  of one, a multiple of eight, the rest zero"""
    head, size = op.q.shape[2], op.v.shape[3]
    assert isinstance(head, int) and isinstance(size, int)
    wide = -(-max(head, size) // ALIGNED) * ALIGNED
    if op.softcap or op.window or op.slopes or head == size == wide:
        return None
    more = {op.q: wide - head, op.k: wide - head, op.v: wide - size}
    return Slice(op.with_operands({x: _padded(x, n) for x, n in more.items() if n}), 2, 0, size)


def _padded(x: Value, more: int) -> Value:
    """Heads with so many zeros behind each."""
    axis = x.type.rank - 1
    return Concat((x, Broadcast(scalar(0, x.dtype), (*x.shape[:axis], more))), axis)


def odd_heads(op: Attention) -> bool:
    """Whether heads have a size for which there would be a fused kernel, were it a multiple of eight."""
    head = op.q.shape[3]
    fits = isinstance(head, int) and head <= WIDEST and head % ALIGNED > 0 and not op.slopes
    return fits and head == op.v.shape[3] and op.q.dtype.bits < 32
