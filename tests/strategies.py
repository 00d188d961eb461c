"""Hypothesis strategies: random well-typed graphs over the whole op set, and passes to run on them."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

import hypothesis.strategies as st
from hypothesis import settings
from plain import AttentionForm, plain_attention, plain_rms_norm
from testing_target import Halves

from trtc.ir import ops
from trtc.ir.graph import Graph
from trtc.ir.op import Value, at
from trtc.ir.ops import Input, Weight, scalar
from trtc.ir.types import Dim, Size, TensorType, bf16, bool_, f16, f32, i32, u8
from trtc.passes import PASSES

settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
settings.register_profile("search", deadline=None, max_examples=2000)
settings.load_profile("repeatable")

B, S, M = Dim.named("B"), Dim.named("S"), Dim.named("M")
BOUNDS = {"B": (1, 3), "S": (1, 5), "M": (8, 12)}
WIDTH = 8
OURS = sorted(PASSES)   # at import: what tests register later is none of ours

PIPELINES = (
    "canonicalize", "cse", "fuse-attention", "fuse-rms-norm", "fuse-swiglu", "merge-projections",
    "fold-masks", "fuse-layer-norm",
    "widen{narrow=f16}", "widen{narrow=bf16}", "legalize{target=testing-primitives}", "rewrite-plugins{target=testing}",
    "specialize{size=B value=2}", "choose-next{count=3}", "split-attention",
    "pack-inputs", "pad-caches{multiple=8 widest=256}", "page-caches{target=cuda:90}",
)   # fmt: skip
"""Every pass, as a pipeline of it alone."""

UNARY: tuple[Callable[[Value], Value], ...] = (
    ops.Neg, ops.Tanh, ops.Sigmoid, ops.SiLU, ops.ReLU, ops.GELU, ops.Erf, ops.Cos, ops.Sin,
    lambda x: ops.GELU(x, tanh=True),
    lambda x: ops.Exp(ops.Tanh(x)),
    lambda x: ops.Sqrt(ops.Add(ops.Mul(x, x), scalar(1, x.dtype))),
    lambda x: ops.Reciprocal(ops.Add(ops.Mul(x, x), scalar(1, x.dtype))),
    lambda x: ops.Pow(ops.Add(ops.Mul(x, x), scalar(0.5, x.dtype)), scalar(0.75, x.dtype)),
)   # fmt: skip
BINARY = (ops.Add, ops.Sub, ops.Mul, ops.Maximum, ops.Minimum)
NEUTRAL: tuple[Callable[[Value], Value], ...] = (
    lambda x: ops.Mul(x, scalar(1, x.dtype)),
    lambda x: ops.Div(x, scalar(1, x.dtype)),
    lambda x: ops.Add(scalar(0, x.dtype), x),
    lambda x: ops.Sub(x, scalar(0, x.dtype)),
    lambda x: ops.Neg(ops.Neg(x)),
    lambda x: ops.Cast(x, x.dtype),
    lambda x: ops.Cast(ops.Cast(x, f32), x.dtype),
    lambda x: ops.Reshape(x, x.shape),
    lambda x: ops.Broadcast(x, x.shape),
    lambda x: ops.Transpose(x, tuple(range(x.type.rank))),
    lambda x: ops.Concat((x,), 0),
    lambda x: ops.Slice(x, x.type.rank - 1, 0, WIDTH),
)


class Builder:
    """A graph under way: every move adds values, each computed from what there is already."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.inputs = [Input("x", f32[B, S, WIDTH]), Input("y", f32[B, S, WIDTH]), Input("ids", i32[B, S])]
        self.rows: list[Value] = list(self.inputs[:2])   # float[B, S, WIDTH]
        self.extra: list[Value] = []                     # of any other type
        self.size: dict[Value, float] = {}               # about how large elements get: 1 where nothing is said
        self.weights = 0

    def build(self, moves: int) -> Graph:
        """A graph of that many moves; what nothing reads is its outputs, so that nothing drawn is dead."""
        names = (self.unary, self.binary, self.neutral, self.constant, self.move_data, self.joined, self.weighted,
                 self.normalised, self.gated, self.looked_up, self.attended, self.projected, self.reduced,
                 self.halved, self.narrowed, self.counted, self.packed)   # fmt: skip
        for _ in range(moves):
            move = self.random.choice(names)
            with at(self.random.choice(("", "layers.0.mlp", 'a "quoted"\nplace'))):
                move()
        values = [*self.rows, *self.extra]
        made = Graph("g", (), {f"o{n}": v for n, v in enumerate(values)}, {})
        read = {v for op in made.ops for v in op.operands.values()}
        outputs = {f"o{n}": v for n, v in enumerate(v for v in values if v not in read)}
        return Graph("g", tuple(self.inputs), outputs, BOUNDS)

    def row(self) -> Value:
        return self.random.choice(self.rows)

    def add(self, value: Value, size: float = 1.0) -> None:
        """Add a value; one that has grown large is squashed, as rounding would be magnified by what follows."""
        self.size[value] = size
        if size > 64:
            value = ops.Tanh(value)
        (self.rows if value.type == f32[B, S, WIDTH] else self.extra).append(value)

    def of(self, *values: Value) -> float:
        return math.prod(self.size.get(v, 3.0) for v in values)

    def weight(self, *shape: int, old: bool = False) -> Value:
        self.weights += not old
        return Weight(f"w{self.weights}.{'x'.join(map(str, shape))}", f32[shape])

    def input(self, key: str, of: TensorType) -> Input:
        found = next((i for i in self.inputs if i.key == key), None)
        if found is None:
            found = Input(key, of)
            self.inputs.append(found)
        return found

    # --- moves

    def unary(self) -> None:
        x = self.row()
        self.add(self.random.choice(UNARY)(x), self.of(x) ** 2)

    def binary(self) -> None:
        a, b = self.row(), self.row()
        self.add(self.random.choice(BINARY)(a, b), self.of(a, b) + self.of(a) + self.of(b))

    def neutral(self) -> None:
        x = self.row()
        self.add(self.random.choice(NEUTRAL)(x), self.of(x))

    def constant(self) -> None:
        x, number = self.row(), self.random.choice((0.5, -2, 3.25))
        one = scalar(number, f32) if self.random.random() < 0.5 else ops.Constant((number,), f32[WIDTH])
        self.add(self.random.choice((ops.Mul, ops.Div))(x, one), 4 * self.of(x))

    def move_data(self) -> None:
        x = self.row()
        split = ops.Reshape(x, (B, S, 2, 4))
        turned = ops.Transpose(split, self.random.choice(((0, 2, 1, 3), (0, 1, 3, 2), (1, 0, 2, 3))))
        back = ops.Transpose(turned, tuple(turned.axes.index(a) for a in range(4)))
        wide = ops.Broadcast(ops.Reshape(x, (B, 1, S, WIDTH)), (B, 2, S, WIDTH))
        self.extra.append(self.random.choice((turned, wide, ops.Reshape(x, (B * S, WIDTH)))))
        self.add(ops.Reshape(self.random.choice((split, back)), x.shape), self.of(x))

    def joined(self) -> None:
        a, b, axis = self.row(), self.row(), self.random.choice((0, 1, 2, 2))
        joint = ops.Concat((a, b, a), axis)
        if axis < 2:
            self.extra.append(joint)
            return
        start = self.random.randrange(2 * WIDTH)
        part = ops.Slice(joint, 2, start, WIDTH)
        inner = ops.Slice(part, 2, cut := self.random.randrange(1, WIDTH), WIDTH - cut)
        pieces = ops.Slice(joint, 2, start, cut), ops.Slice(joint, 2, start + cut, WIDTH - cut)
        self.add(self.random.choice((part, ops.Concat(pieces, 2))), max(self.of(a), self.of(b)))
        self.extra.append(inner)

    def weighted(self) -> None:
        x, biased = self.row(), self.random.random() < 0.3
        columns = self.random.choice((WIDTH, 4))
        w: Value = self.weight(columns, WIDTH, old=self.random.random() < 0.3)
        if columns == 4 and self.random.random() < 0.5:
            w = ops.Concat((w, self.weight(4, WIDTH)), 0)
        bias = self.weight(columns if isinstance(w, Weight) else WIDTH) if biased else None
        self.add(ops.Linear(x, w, bias), 3 * self.of(x))

    def normalised(self) -> None:
        x, gain, eps = self.row(), self.weight(WIDTH), self.random.choice((1e-5, 0.3))
        self.add(
            self.random.choice(
                (
                    lambda: ops.RMSNorm(x, gain, eps=eps),
                    lambda: plain_rms_norm(x, gain, eps),
                    lambda: ops.Cast(plain_rms_norm(ops.Cast(ops.Tanh(x), f16), ops.Cast(gain, f16), eps), f32),
                    lambda: ops.LayerNorm(x, gain, self.random.choice((None, self.weight(WIDTH))), eps=eps),
                )
            )(),
            3.0,
        )

    def gated(self) -> None:
        gate, up = self.row(), self.row()
        made = self.random.choice(
            (
                lambda: ops.SwiGLU(gate, up),
                lambda: ops.Mul(ops.SiLU(gate), up),
                lambda: ops.Mul(up, ops.SiLU(gate)),
                lambda: ops.Mul(ops.Add(gate, ops.Tanh(up)), up),
            )
        )()
        self.add(made, self.of(gate, up))

    def looked_up(self) -> None:
        x, ids = self.row(), self.inputs[2]
        table = self.weight(5, WIDTH)
        last = ops.Reshape(ops.Sub(self.input("lengths", i32[B,]), scalar(1, i32)), (B, 1))
        self.add(ops.Embedding(table, ids))
        self.extra.append(ops.Gather(x, last, axis=1, batch=1))
        self.extra.append(ops.Gather(table, ids, axis=self.random.choice((0, 0, 1))))

    def projected(self) -> None:
        x = self.row()
        for _ in range(self.random.choice((2, 3))):
            self.add(ops.Linear(x, self.weight(WIDTH, WIDTH)), 3 * self.of(x))

    def attended(self) -> None:
        heads, kv_heads = self.random.choice(((2, 2), (2, 1), (4, 2)))
        past, head = self.input("past", i32[B,]), WIDTH // heads
        x = ops.Tanh(self.row())

        def split(y: Value, n: int) -> Value:
            return ops.Transpose(ops.Reshape(y, (B, S, n, head)), (0, 2, 1, 3))

        q, k, v = (split(ops.Linear(x, self.weight(n * head, WIDTH)), n) for n in (heads, kv_heads, kv_heads))
        q = self.turned(q, past) if head > 2 and self.random.random() < 0.5 else q
        cached = self.random.random() < 0.5
        if cached:
            caches = (self.input(f"cache_{c}_{kv_heads}x{head}", f32[B, kv_heads, M, head]) for c in "kv")
            k, v = (ops.KVCacheUpdate(c, new, past) for c, new in zip(caches, (k, v), strict=True))
        form = AttentionForm(self.random, past if cached else None)
        if self.random.random() < 0.3:
            slopes = self.weight(heads) if self.random.random() < 0.3 else None
            y: Value = ops.Attention(q, k, v, None, None, slopes, scale=0.5, causal=not cached)
        else:
            y = plain_attention(q, k, v, form)
        y = ops.Reshape(ops.Transpose(ops.Reshape(y, (B, heads, S, head)), (0, 2, 1, 3)), (B, S, WIDTH))
        self.add(y if y.dtype == f32 else ops.Cast(y, f32))

    def turned(self, x: Value, past: Value) -> Value:
        """Rotary positions of x, by angles that are computed or looked up."""
        positions = ops.Add(ops.Reshape(past, (B, 1)), ops.Iota(S))
        angles = ops.Reshape(ops.Cast(positions, f32), (B, S, 1))
        computed: tuple[Value, Value] = ops.Cos(angles), ops.Sin(angles)
        tables = ops.Gather(self.weight(32, 1), positions), ops.Gather(self.weight(32, 1), positions)
        return ops.Rope(x, *self.random.choice((computed, tables)), interleaved=self.random.random() < 0.5)

    def reduced(self) -> None:
        x, axis = self.row(), self.random.choice((1, 2))
        kind = self.random.choice((ops.ReduceMean, ops.ReduceMax, ops.ReduceSum, ops.Softmax))
        made = kind(x, axis)
        self.add(made if made.type == x.type else ops.Sub(x, made), 8 * self.of(x))

    def halved(self) -> None:
        first, second = Halves(self.row()).results
        joint = self.random.choice(((first, second), (second, first), (second, second)))
        self.add(ops.Concat(joint, 2))

    def narrowed(self) -> None:
        narrow = self.random.choice((f16, bf16))
        x = ops.Cast(ops.Tanh(self.row()), narrow)
        self.extra.append(self.random.choice(UNARY)(x))
        self.add(ops.Cast(self.random.choice(BINARY)(x, ops.Cast(self.weight(WIDTH), narrow)), f32))

    def packed(self) -> None:
        x, bits = self.row(), self.random.choice((2, 3, 4))
        self.weights += 2
        scale = ops.Cast(ops.Bitcast(Weight(f"w{self.weights}.scale", u8[2,]), f16), f32)
        q = ops.Unpack(Weight(f"w{self.weights}.packed", u8[bits,]), bits, signed=self.random.random() < 0.5)
        self.add(ops.Add(x, ops.Mul(ops.Cast(q, f32), scale)), self.of(x) + 1)

    def counted(self) -> None:
        x, past = self.row(), self.input("past", i32[B,])
        tokens = ops.SizeOf(x, 1)
        back = ops.Sub(ops.Add(past, tokens), self.random.choice((tokens, ops.SizeOf(self.row(), 1), past)))
        sizes: tuple[Size, ...] = (B, 1, 1)
        self.extra.append(back)
        seen = ops.Less(ops.Iota(S), ops.Reshape(past, (B, 1)))
        kept = ops.Where(ops.Reshape(seen, (B, S, 1)), x, scalar(0, f32))
        shown = ops.And(ops.Reshape(seen, (B, S, 1)), self.input("shown", bool_[B, S, 1]))
        self.extra.append(shown)
        self.add(ops.Add(kept, ops.Cast(ops.Reshape(back if back.shape == (B,) else past, sizes), f32)), 12.0)


@st.composite
def graphs(draw: st.DrawFn, most: int = 8) -> Graph:
    """A graph of up to 8 moves, each of a few ops."""
    random = draw(st.randoms(use_true_random=True))   # drawn choice by choice, hypothesis repeats itself: it finds less
    return Builder(random).build(draw(st.integers(1, most)))


