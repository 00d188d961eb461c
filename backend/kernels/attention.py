"""Kernels of the cache: its update with the rotation, and the attention of a decode step over it."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

from trtc.backend.kernels.kernel import kernel
from trtc.backend.kernels.launch import (
    MULTIPROCESSORS,
    Argument,
    Launch,
    Pointer,
    Scalar,
    ceildiv,
    count,
    operand,
    product,
    result,
    text,
)  # fmt: skip
from trtc.backend.kernels.ops import AppendAndAttend, DecodeAttention, PrefillAttention, RopeAndAppend
from trtc.backend.kernels.ops.attention import PAGE
from trtc.backend.kernels.rules import fixed, float_type
from trtc.expressions import Expression
from trtc.ir.types import Size, bf16, f8e4m3, f16, i8

LARGEST = 256   # elements of a head
MOST = 64       # blocks that share a key head of a sequence
SHORTEST, LONGEST = 128, 2048   # keys that are worth a block of them, and the most that one should have alone

Cached: TypeAlias = RopeAndAppend | AppendAndAttend | DecodeAttention | PrefillAttention
Decoding: TypeAlias = AppendAndAttend | DecodeAttention


def _quantized(op: Cached) -> int:
    return {i8: 1, f8e4m3: 2}.get(op.key_cache.dtype, 0)


def _defines(op: Cached) -> dict[str, int | str]:
    return {
        "T": op.dtype.name, "QUANTIZED": _quantized(op), "PAGED": int(op.pages is not None),
        "HEADS": op.heads, "KV_HEADS": op.kv_heads, "HEAD": fixed(op.key_cache.shape[3]),
    }   # fmt: skip


def _turning(op: RopeAndAppend | AppendAndAttend) -> dict[str, int | str]:
    return {"HALF": fixed(op.cos.shape[1]) if op.cos else 0, "INTERLEAVED": int(op.interleaved)}


def _capacity(op: Cached) -> Size | str:
    """Tokens of a sequence that the caches have room for."""
    return product(op.pages.shape[1], PAGE) if op.pages else op.key_cache.shape[2]


def _given(op: Cached) -> tuple[Argument, ...]:
    return tuple(operand(f.name) for f in op.fields if f.is_operand and getattr(op, f.name) is not None)


@kernel("rope_append.cu", lambda op: float_type(op.qkv))
def rope_and_append(op: RopeAndAppend) -> Launch:
    """A warp moves one head of a new token, or some where there are many tokens."""
    tokens, heads = op.qkv.shape[1], op.heads + 2 * op.kv_heads
    warps, each = (4, 1) if tokens == 1 else (8, min(8, -(-heads // 8)))
    defines = _defines(op) | _turning(op) | {"WARPS": warps, "EACH": each}
    grid = (ceildiv(heads, warps * each), product(op.qkv.shape[0], tokens), 1)
    arguments = (*_given(op), result(), count(tokens), count(_capacity(op)))
    return Launch(
        "rope_append", defines, grid, (32 * warps, 1, 1), arguments, in_place={1: "key_cache", 2: "value_cache"}
    )


def _decodes(op: Decoding) -> str | None:
    size = fixed(op.key_cache.shape[3])
    if op.dtype not in (f16, bf16):
        return f"q is {op.dtype}, but must be f16 or bf16"
    if size % 32 or size > LARGEST:
        return f"head size is {size}, but must be a multiple of 32 and {LARGEST} at most"
    return None


def _plainly(op: DecodeAttention | PrefillAttention) -> str | None:
    size = fixed(op.key_cache.shape[3])
    return f"head size is {size}, but must be {LARGEST} at most" if size > LARGEST else float_type(op.q)


@kernel("decode_attention_plain.cu", _plainly)
def plain_decode_attention(op: DecodeAttention) -> Launch:
    """A block attends with one query head, a warp to every eighth key."""
    warps = 8
    defines = _attention_defines(op) | {"WARPS": warps}
    arguments = (*_given(op), result(), *_scalars(op))
    return Launch("plain_attention", defines, (op.heads, text(op.q.shape[0]), 1), (32 * warps, 1, 1), arguments)


@kernel("decode_attention.cu", _decodes)
def decode_attention(op: DecodeAttention) -> Launch:
    """Blocks share the keys of a sequence; how many follows from its length, on the device."""
    return _decode(op, {"FRESH": 0, "NEW": 0})


def _appends(op: AppendAndAttend) -> str | None:
    group = op.heads // op.kv_heads
    return _decodes(op) or (f"{group} query heads share a key head, but must be 16 at most" if group > 16 else None)


@kernel("decode_attention.cu", _appends)
def append_and_attend(op: AppendAndAttend) -> Launch:
    """The same; the block that has the newest position writes the new key and value."""
    fresh: dict[str, int | str] = {"FRESH": 1, "NEW": int(op.lengths is not None)}
    early = ("key_cache", "value_cache", "start", "lengths", "pages", "cos", "sin")
    return replace(_decode(op, fresh | _turning(op)), in_place={1: "key_cache", 2: "value_cache"}, early=early)


def _decode(op: Decoding, more: dict[str, int | str]) -> Launch:
    batch, group, size = op.shape[0], op.heads // op.kv_heads, fixed(op.key_cache.shape[3])
    together = min(group, 16) * size
    warps = 8 if together <= 1024 else 4 if together <= 2048 else 2   # whose parts fit into shared memory
    sets = op.kv_heads * -(-group // 16)
    pairs = product(batch, sets)
    at_once = f"max(1, ceildiv({MULTIPROCESSORS} + 1 - {pairs}, {pairs}))"   # blocks a pair, rounded down
    parts = _parts(at_once, _capacity(op))
    record = 4 * min(group, 16) * size * 2
    defines = _attention_defines(op) | more | {
        "GROUP": group, "WARPS": warps, "MOST": MOST, "SHORTEST": SHORTEST, "LONGEST": LONGEST,
    }   # fmt: skip
    arguments = (*_given(op), result(), Pointer("workspace"), Pointer("counters"), *_scalars(op), count(at_once))
    return Launch(
        "decode_attention", defines, (parts, sets, text(batch)), (32 * warps, 1, 1), arguments,
        workspace_bytes=product(pairs, record, parts), counter_bytes=product(pairs, 4),
    )   # fmt: skip


@kernel("prefill_attention_plain.cu", _plainly)
def plain_prefill_attention(op: PrefillAttention) -> Launch:
    """A warp attends with one query head of a token."""
    warps, (batch, tokens, _) = 4, op.q.shape
    grid = (op.heads, text(batch), ceildiv(tokens, warps))
    arguments = (*_given(op), result(), count(tokens), *_scalars(op))
    defines = _attention_defines(op) | {"WARPS": warps}
    return Launch("plain_prefill_attention", defines, grid, (32 * warps, 1, 1), arguments)


def _prefills(op: PrefillAttention) -> str | None:
    size = fixed(op.key_cache.shape[3])
    if op.dtype not in (f16, bf16):
        return f"q is {op.dtype}, but must be f16 or bf16"
    if size % 16 or size > LARGEST:
        return f"head size is {size}, but must be a multiple of 16 and {LARGEST} at most"
    return None if op.scale > 0 else f"scale is {op.scale:g}, but must be positive"


@kernel("prefill_attention.cu", _prefills)
def prefill_attention(op: PrefillAttention) -> Launch:
    """A block attends with a key head's query heads of some tokens, 16 or 32 rows a warp."""
    (batch, tokens, _), size, group = op.q.shape, fixed(op.key_cache.shape[3]), op.heads // op.kv_heads
    warps, tiles = 4, 2 if size <= 128 else 1   # whose sums fit into registers
    rows = warps * tiles * 16
    defines = _attention_defines(op) | {"GROUP": group, "WARPS": warps, "TILES": tiles, "BLOCKS": 2}
    grid = (op.kv_heads, text(batch), ceildiv(product(tokens, group), rows))
    arguments = (*_given(op), result(), count(tokens), *_scalars(op), count(f"2*{MULTIPROCESSORS}"))
    shared = 2 * (rows + 2 * PAGE) * (size + 8)
    return Launch("prefill_attention", defines, grid, (32 * warps, 1, 1), arguments, shared, overlaps=False)


def _prefills_on_hopper(op: PrefillAttention) -> str | None:
    size = fixed(op.key_cache.shape[3])
    if _quantized(op):
        return f"caches are {op.key_cache.dtype}, but must be {op.dtype}"
    return _prefills(op) or (None if size in (64, 128) else f"head size is {size}, but must be 64 or 128")


@kernel("hopper_prefill_attention.cu", _prefills_on_hopper, architectures=(90,), specific=True)
def hopper_prefill_attention(op: PrefillAttention) -> Launch:
    """A block a multiprocessor attends with tiles of 128 rows in turn, 64 a warpgroup; a third one copies."""
    (batch, tokens, _), size, group = op.q.shape, fixed(op.key_cache.shape[3]), op.heads // op.kv_heads
    rows, stages = 128, 512 // size
    items = product(op.kv_heads, batch, ceildiv(product(tokens, group), rows))
    defines = _attention_defines(op) | {"GROUP": group, "STAGES": stages}
    grid = (f"min({MULTIPROCESSORS}, {items})", 1, 1)
    arguments = (*_given(op), result(), Pointer("counters"), count(tokens), count(items), *_scalars(op))
    shared = 2 * rows * size * (2 + stages) + 1024 + 256   # queries twice, tiles; to align them, and barriers
    return Launch(
        "hopper_prefill_attention", defines, grid, (384, 1, 1), arguments, shared, counter_bytes=4, overlaps=False
    )   # fmt: skip


def _parts(at_once: Expression, capacity: Size | str) -> Expression:
    """The most blocks that share the keys of a sequence and a key head; how many have work its length decides.

    As many as the device has room for, of 128 keys at least, or a block for 2,048 keys.
    """
    return f"min({MOST}, max(ceildiv({capacity}, {LONGEST}), min({at_once}, ceildiv({capacity}, {SHORTEST}))))"


def _attention_defines(op: Decoding | PrefillAttention) -> dict[str, int | str]:
    given = {"WINDOW": op.window, "SOFTCAP": int(op.softcap > 0), "SLOPES": int(op.slopes is not None)}
    return _defines(op) | given


def _scalars(op: Decoding | PrefillAttention) -> tuple[Argument, ...]:
    return count(_capacity(op)), Scalar("f32", op.scale), Scalar("f32", op.softcap)
