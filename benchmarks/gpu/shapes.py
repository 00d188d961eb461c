"""What is timed: the ops of a decode step of LLaMA 3.1 8B in bf16 and a prompt's attention, and what each must move."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from trtc.backend.kernels import ops as fused
from trtc.ir import ops
from trtc.ir.op import Op
from trtc.ir.ops import Input
from trtc.ir.types import DType, bf16, f8e4m3, f32, i4, i8, i32

HIDDEN, INNER, VOCABULARY, QKV = 4096, 14336, 128256, 6144
HEADS, KV_HEADS, HEAD = 32, 8, 128


class Form(NamedTuple):
    """How a weight is stored: its type, how many elements of a row share a scale, 0 for all, and if it has zeros."""

    dtype: DType
    group: int = 0
    zeros: bool = False

    def weight(self, rows: int, columns: int) -> tuple[Input, Input | None, Input | None]:
        """A weight, its scales and its zeros."""
        weight = Input("weight", self.dtype[rows, columns])
        of = bf16[rows, columns // self.group] if self.group else bf16[rows,]
        scales = Input("scales", of) if self.dtype != bf16 else None
        return weight, scales, Input("zeros", of) if self.zeros else None


FORMS = {
    "bf16": Form(bf16), "i8": Form(i8), "i4": Form(i4, 128), "i4-zeros": Form(i4, 128, True), "i4-32": Form(i4, 32),
    "i8-32": Form(i8, 32), "f8": Form(f8e4m3), "f8-128": Form(f8e4m3, 128),
}   # fmt: skip


@dataclass(frozen=True)
class Timed:
    """An op at one shape.

    Args:
        bytes: that must be read and written, each once.
        operations: of the products, a multiplication and an addition each.
        integers: what its i32 operands hold; 0 where absent.
    """

    name: str
    op: Op
    bytes: int
    operations: int = 0
    integers: Mapping[str, int] = field(default_factory=dict[str, int])


def timed() -> Iterator[Timed]:
    """Everything that is timed."""
    for batch in (1, 8, 16):
        for name, rows, columns in (("qkv", QKV, HIDDEN), ("o", HIDDEN, HIDDEN), ("down", HIDDEN, INNER)):
            yield linear(name, batch, rows, columns, residual=name != "qkv")
        yield linear("lm_head", batch, VOCABULARY, HIDDEN)
        yield linear("gate_up", batch, 2 * INNER, HIDDEN, activation="silu")
        for stored in FORMS:
            if stored == "bf16":
                continue
            yield linear("qkv", batch, QKV, HIDDEN, stored)
            yield linear("gate_up", batch, 2 * INNER, HIDDEN, stored, activation="silu")
            yield linear("down", batch, HIDDEN, INNER, stored)
        for stored in ("bf16", "i8", "i4"):
            yield from normed(batch, stored)
    lengths = ((1, 1024, 1024), (1, 1024, 8192), (1, 8192, 8192), (8, 1024, 1024), (64, 1024, 1024))
    for batch, length, capacity in lengths:
        yield attention(batch, length, capacity)
    for batch, length, capacity in lengths:
        yield appending(batch, length, capacity)
    for batch, tokens in ((1, 1024), (8, 1024), (1, 8192)):
        yield prefill(batch, tokens)
    for batch in (1, 8):
        yield rope(batch, 1024)
    for batch in (1, 8, 64):
        yield from small(batch)
    for batch in (1, 8):
        yield from experts(batch)
    table, ids = Input("table", bf16[VOCABULARY, HIDDEN]), Input("ids", i32[64, 1])
    yield Timed("embedding 64", ops.Embedding(table, ids), 4 * 64 * HIDDEN)
    of = bf16[8192, INNER]
    yield Timed("swiglu 8192", ops.SwiGLU(Input("gate", of), Input("up", of)), 6 * 8192 * INNER)


def linear(
    name: str, batch: int, rows: int, columns: int, stored: str = "bf16",
    *, residual: bool = False, activation: str = "",
) -> Timed:   # fmt: skip
    """A product, and what is fused to it."""
    made = rows // 2 if activation else rows
    weight, scales, zeros = FORMS[stored].weight(rows, columns)
    added = Input("residual", bf16[batch, 1, made]) if residual else None
    x = Input("x", bf16[batch, 1, columns])
    op = fused.FusedLinear(x, weight, scales, None, added, zeros=zeros, activation=activation)
    read = sum(each.type.nbytes() for each in (weight, scales, zeros) if each)
    moved = read + 2 * batch * (columns + made * (2 if residual else 1))
    return Timed(f"{name} {stored} {batch}" if scales else f"{name} {batch}", op, moved)


def normed(batch: int, stored: str) -> Iterator[Timed]:
    """The products about a norm: those that make its operand, and those that read it."""
    for name, columns in (("o", HIDDEN), ("down", INNER)):
        plain = linear(name, batch, HIDDEN, columns, stored, residual=True)
        x, weight, scales, _, residual, *_ = (getattr(plain.op, f.name) for f in plain.op.fields)
        op = fused.LinearForNorm(x, weight, scales, None, residual, Input("gain", bf16[HIDDEN]))
        more = 2 * HIDDEN + 2 * batch * HIDDEN + 4 * batch * HIDDEN // fused.PART
        yield Timed(f"{plain.name} for a norm", op, plain.bytes + more)
    products = [linear("qkv", batch, QKV, HIDDEN, stored)]
    products.append(linear("gate_up", batch, 2 * INNER, HIDDEN, stored, activation="silu"))
    products += [linear("lm_head", batch, VOCABULARY, HIDDEN)] if stored == "bf16" else []
    squares = Input("squares", f32[batch, 1, HIDDEN // fused.PART])
    for plain in products:
        op = plain.op.with_attributes(squares=squares)
        yield Timed(f"{plain.name} of a norm", op, plain.bytes + squares.type.nbytes())


def attention(batch: int, length: int, capacity: int) -> Timed:
    cache = bf16[batch, KV_HEADS, capacity, HEAD]
    op = fused.DecodeAttention(
        Input("q", bf16[batch, 1, HIDDEN]), Input("key_cache", cache), Input("value_cache", cache),
        Input("lengths", i32[batch,]), heads=HEADS, kv_heads=KV_HEADS, scale=HEAD**-0.5,
    )   # fmt: skip
    moved = batch * (4 * KV_HEADS * HEAD * length + 4 * HIDDEN)
    return Timed(f"attention {batch} x {length} of {capacity}", op, moved, integers={"lengths": length})


def appending(batch: int, length: int, capacity: int) -> Timed:
    """The same with the rotation and the update of the cache."""
    cache, table = bf16[batch, KV_HEADS, capacity, HEAD], f32[capacity, HEAD // 2]
    op = fused.AppendAndAttend(
        Input("qkv", bf16[batch, 1, QKV]), Input("key_cache", cache), Input("value_cache", cache),
        Input("start", i32[batch,]), Input("cos", table), Input("sin", table),
        heads=HEADS, kv_heads=KV_HEADS, scale=HEAD**-0.5,
    )   # fmt: skip
    moved = batch * (4 * KV_HEADS * HEAD * length + 2 * QKV + 2 * HIDDEN)
    return Timed(f"append_and_attend {batch} x {length} of {capacity}", op, moved, integers={"start": length - 1})


def prefill(batch: int, tokens: int) -> Timed:
    """Attention of whole prompts; a token and a key that it sees cost 4 operations an element of a head."""
    cache = bf16[batch, KV_HEADS, tokens, HEAD]
    op = fused.PrefillAttention(
        Input("q", bf16[batch, tokens, HIDDEN]), Input("key_cache", cache), Input("value_cache", cache),
        Input("start", i32[batch,]), Input("lengths", i32[batch,]), heads=HEADS, kv_heads=KV_HEADS, scale=HEAD**-0.5,
    )   # fmt: skip
    moved, seen = batch * tokens * 4 * (KV_HEADS * HEAD + HIDDEN), batch * tokens * (tokens + 1) // 2
    return Timed(f"prefill {batch} x {tokens}", op, moved, 4 * HIDDEN * seen, {"lengths": tokens})


def small(batch: int) -> Iterator[Timed]:
    """What a step does between its products."""
    of = bf16[batch, 1, HIDDEN]
    norm = fused.AddRMSNorm(Input("x", of), Input("skip", of), Input("weight", bf16[HIDDEN]))
    yield Timed(f"add_rms_norm {batch}", norm, 2 * 4 * batch * HIDDEN + 2 * HIDDEN)
    yield rope(batch, 1)
    yield Timed(f"argmax {batch}", fused.ArgMax(Input("x", f32[batch, VOCABULARY])), 4 * batch * VOCABULARY)


def rope(batch: int, tokens: int) -> Timed:
    cache, tables = bf16[batch, KV_HEADS, 1024, HEAD], f32[1024, HEAD // 2]
    op = fused.RopeAndAppend(
        Input("qkv", bf16[batch, tokens, QKV]), Input("key_cache", cache), Input("value_cache", cache),
        Input("start", i32[batch,]), Input("cos", tables), Input("sin", tables), heads=HEADS, kv_heads=KV_HEADS,
    )   # fmt: skip
    moved = 2 * batch * tokens * 2 * QKV
    return Timed(f"rope_and_append {batch} x {tokens}", op, moved, integers={"start": 1000 if tokens == 1 else 0})


def experts(batch: int, count: int = 8, many: int = 2) -> Iterator[Timed]:
    """The experts of Mixtral 8x7B, chosen as evenly as can be."""
    chosen, read = Input("chosen", i32[batch, many]), min(batch * many, count)
    fc = bf16[count, INNER, HIDDEN]
    inner = fused.ExpertsInner(Input("x", bf16[batch, HIDDEN]), chosen, Input("fc", fc), Input("gate", fc))
    yield Timed(f"experts_inner {batch}", inner, 2 * (2 * read * INNER * HIDDEN + batch * many * INNER))
    given, shares = Input("inner", bf16[batch, many, INNER]), Input("shares", bf16[batch, many])
    outer = fused.ExpertsOuter(given, chosen, shares, Input("proj", bf16[count, HIDDEN, INNER]))
    yield Timed(f"experts_outer {batch}", outer, 2 * (read * INNER * HIDDEN + batch * many * INNER))
