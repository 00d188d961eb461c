"""Rotary position embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trtc.backend.tensorrt.lower.registry import lower
from trtc.ir.ops import Rope

if TYPE_CHECKING:
    from trtc.backend.tensorrt.emit import Emitter


@lower(Rope)
def rope(op: Rope, emit: Emitter) -> Any:
    half = op.cos.shape[-1]
    assert isinstance(half, int)
    return emit.add("rotary_embedding", emit[op.x], emit[op.cos], emit[op.sin], op.interleaved, 2 * half)
