"""The end of a step: the next token of each sequence, and whether it is the last."""

from __future__ import annotations

import numpy as np

from trtc.ir.op import Array, Op, Value, require
from trtc.ir.ops import Reshape, TopK, wide
from trtc.ir.types import DType, Size, TensorType, f32, i32, i64

ONE = 1 << 30   # the weight of the likeliest token
LANES = 1024    # the order of the draw: tokens 0, 1024, 2048, ..., then 1, 1025, ...


class ArgMax(Op, name="cuda.argmax"):
    """Where the greatest element of each row stands; of equal ones the first.

    Operands:
        x: float[B, V].
    Result:
        i32[B].
    """

    x: Value

    def infer(self) -> TensorType:
        require(self.x.type.rank == 2, f"x has rank {self.x.type.rank}, but must have rank 2")
        return i32[TopK(self.x, 1).shape[0],]

    def evaluate(self, x: Array) -> Array:
        return TopK(self.x, 1).evaluate(x)[:, 0]

    def decompose(self) -> Value:
        return Reshape(TopK(self.x, 1), self.type.shape)


class Sample(Op, name="cuda.sample"):
    """Draw the next token of each sequence: temperature, then top-k, then top-p, then one random number.

    A token's weight is ``floor(2^30 * exp((x - max x) / temperature))``. Top-k keeps the tokens that fewer than k are
    likelier than; top-p of those the ones whose likelier ones weigh less than p together. The random number is that of
    Philox 4x32-10 with the seed as its key and the step as its counter, so a sequence's draws depend on nothing else.

    Operands:
        logits: float[B, V].
        temperature: f32[B]; 0 takes the likeliest, the first of equal ones.
        top_k: i32[B]; 0 keeps all.
        top_p: f32[B]; 1 keeps all.
        seed: i64[B].
        step: i32[B], tokens that were drawn before.
    Result:
        i32[B].
    Source:
        Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, 2011.
    """

    logits: Value
    temperature: Value
    top_k: Value
    top_p: Value
    seed: Value
    step: Value

    def infer(self) -> TensorType:
        logits = self.logits
        require(logits.type.rank == 2, f"logits has rank {logits.type.rank}, but must have rank 2")
        require(logits.dtype.is_float, f"logits is {logits.dtype}, but must be a float")
        wanted = {"temperature": f32, "top_k": i32, "top_p": f32, "seed": i64, "step": i32}
        check_vectors(self, logits.shape[0], wanted)
        return i32[logits.shape[0],]

    def evaluate(self, logits: Array, *options: Array) -> Array:
        rows = zip(wide(logits).astype(np.float32), *options, strict=True)
        return np.array([draw(*row) for row in rows], np.int32)


def draw(logits: Array, temperature: float, top_k: int, top_p: float, seed: int, step: int) -> int:
    """The token of one sequence, as ``cuda.sample`` says."""
    if temperature <= 0:
        return int(np.argmax(logits))
    away = (logits - logits.max()) / np.float32(temperature)
    weights = np.floor(np.exp(away) * np.float32(ONE)).astype(np.uint64)
    order = np.argsort(-logits, kind="stable")
    ranked, levels = logits[order], weights[order]
    better = np.searchsorted(-ranked, -ranked, "left")   # how many are likelier
    kept = better < (top_k if top_k > 0 else len(logits))
    heavier = np.concatenate([[0], np.cumsum(levels)])[better]
    if top_p < 1:
        kept &= heavier < np.ceil(float(np.float32(top_p)) * float(levels[kept].sum()))
    mass = np.zeros_like(weights)
    mass[order[kept]] = levels[kept]
    lanes = np.concatenate([np.arange(lane, len(mass), LANES) for lane in range(min(LANES, len(mass)))])
    reach = np.cumsum(mass[lanes])
    point = philox(int(seed), int(step)) * int(reach[-1]) >> 64
    return int(lanes[np.searchsorted(reach, np.uint64(point), "right")])


def philox(key: int, counter: int) -> int:
    """The first 64 bits of Philox 4x32-10 for a key of 64 bits and a counter of 32.

    >>> hex(philox(0, 0))
    '0x6627e8d5e169c58d'
    """
    k0, k1 = key & 0xFFFFFFFF, key >> 32 & 0xFFFFFFFF
    c0, c1, c2, c3 = counter, 0, 0, 0
    for _ in range(10):
        first, second = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = second >> 32 ^ c1 ^ k0, second & 0xFFFFFFFF, first >> 32 ^ c3 ^ k1, first & 0xFFFFFFFF
        k0, k1 = k0 + 0x9E3779B9 & 0xFFFFFFFF, k1 + 0xBB67AE85 & 0xFFFFFFFF
    return c0 << 32 | c1


class StopCheck(Op, name="cuda.stop_check"):
    """Whether each sequence has come to its end, and how long it is now.

    A sequence is done once its token is one of the stops or its length has reached its limit. One that was done stays
    so, and as long as it was.

    Operands:
        tokens: i32[B], just made.
        lengths: i32[B], of each sequence without them.
        limits: i32[B], the greatest lengths.
        stops: i32[K], the tokens that end a sequence.
        done: i32[B], 0 or 1.
    Result:
        i32[B], done; then i32[B], the lengths.
    """

    tokens: Value
    lengths: Value
    limits: Value
    stops: Value
    done: Value

    def infer(self) -> tuple[TensorType, TensorType]:
        require(self.tokens.type.rank == 1, f"tokens has rank {self.tokens.type.rank}, but must have rank 1")
        batch = self.tokens.shape[0]
        check_vectors(self, batch, dict.fromkeys(("tokens", "lengths", "limits", "done"), i32))
        fits = self.stops.dtype == i32 and self.stops.type.rank == 1
        require(fits, f"stops is {self.stops.type}, but must be i32[K]")
        return i32[batch,], i32[batch,]

    def evaluate(self, tokens: Array, lengths: Array, limits: Array, stops: Array, done: Array) -> tuple[Array, Array]:
        longer = np.where(done, lengths, lengths + 1).astype(np.int32)
        ended = np.isin(tokens, stops) | (longer >= limits) | (done != 0)
        return ended.astype(np.int32), longer


def check_vectors(op: Op, batch: Size, wanted: dict[str, DType]) -> None:
    """One element a sequence, of the right type, for each of these operands."""
    for name, dtype in wanted.items():
        value = op.operands[name]
        require(value.type == dtype[batch,], f"{name} is {value.type}, but must be {dtype[batch,]}")
