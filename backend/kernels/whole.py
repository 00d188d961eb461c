"""Kernels of attention and of cache updates as the IR has them, for what those of `attention` do not serve."""

from __future__ import annotations

from trtc.backend.kernels.attention import LARGEST
from trtc.backend.kernels.indexing import Sizes
from trtc.backend.kernels.kernel import kernel
from trtc.backend.kernels.launch import Launch, Scalar, ceildiv, count, operand, product, result
from trtc.backend.kernels.rules import fixed, float_type
from trtc.ir.ops import Attention, KVCacheUpdate

WARPS = 4


def _attends(op: Attention) -> str | None:
    head, size = op.q.shape[3], op.v.shape[3]
    if not isinstance(head, int) or not isinstance(size, int) or max(head, size) > LARGEST:
        return f"head sizes are {head} and {size}, but must be known, and {LARGEST} at most"
    return float_type(op.q)


@kernel("attention_plain.cu", _attends)
def plain_attention(op: Attention) -> Launch:
    """A warp attends with one query head of a token."""
    batch, heads, tokens, head = op.q.shape
    sizes, rows = Sizes(), product(batch, heads, tokens)
    defines = {
        "T": op.dtype.name, "WARPS": WARPS, "HEADS": fixed(heads), "KV_HEADS": fixed(op.k.shape[1]),
        "HEAD": fixed(head), "VALUE_HEAD": fixed(op.v.shape[3]), "LENGTHS": int(op.lengths is not None),
        "MASKED": int(op.mask is not None), "SLOPES": int(op.slopes is not None), "CAUSAL": int(op.causal),
        "WINDOW": op.window, "SOFTCAP": int(op.softcap > 0), "MASK_AT": _mask_at(op, sizes), "SIZES": sizes.parameters,
    }   # fmt: skip
    given = (operand(f.name) for f in op.fields if f.is_operand and getattr(op, f.name) is not None)
    counts = Scalar("i64", rows), count(tokens), count(op.k.shape[2])
    numbers = *counts, Scalar("f32", op.scale), Scalar("f32", op.softcap)
    return Launch(
        "plain_attention", defines, (ceildiv(rows, WARPS), 1, 1), (32 * WARPS, 1, 1),
        (*given, result(), *numbers, *sizes.arguments),
    )   # fmt: skip


def _mask_at(op: Attention, sizes: Sizes) -> str:
    """Where the mask's element for a head, a token and a key stands."""
    if not op.mask:
        return "0"
    shape = (*(1,) * (4 - op.mask.type.rank), *op.mask.shape)
    return sizes.at(["(u64)batch", "head", "token", "key"], shape)


@kernel("cache_update.cu", lambda op: float_type(op.cache))
def update_cache(op: KVCacheUpdate) -> Launch:
    """A warp copies the row of one head of a token."""
    batch, heads, tokens, size = op.new.shape
    rows = product(batch, heads, tokens)
    defines = {"T": op.dtype.name, "HEADS": fixed(heads), "SIZE": fixed(size), "WARPS": WARPS}
    counts = Scalar("i64", rows), count(tokens), count(op.cache.shape[2])
    arguments = (operand("cache"), operand("new"), operand("start"), *counts)
    return Launch(
        "update_cache", defines, (ceildiv(rows, WARPS), 1, 1), (32 * WARPS, 1, 1), arguments, in_place={0: "cache"}
    )
