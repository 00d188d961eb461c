"""A session on a GPU: the batch's tensors stay there, and the host is told what it asks for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from trtc.runtime.bundle import EngineBundle
from trtc.runtime.gpu.buffers import CHOSEN, TOLD, Buffers, HostBlock, Sizes, Tensors
from trtc.runtime.gpu.caches import STEP, levels
from trtc.runtime.gpu.device import Device
from trtc.runtime.gpu.pages import PageTable, pages_of
from trtc.runtime.gpu.replay import Replay
from trtc.runtime.gpu.stream import Event, Stream
from trtc.runtime.sampling import Best
from trtc.runtime.session import Floats, Ints

Bools: TypeAlias = npt.NDArray[np.bool_]


class Run(Protocol):
    """An engine with sizes and addresses bound."""

    def enqueue(self, stream: Stream) -> None:
        """Have the engine run, after what the stream has been told before."""
        ...

    def capturable(self, stream: Stream) -> bool:
        """Whether it may be part of a graph."""
        ...


class Executor(Protocol):
    """An engine, loaded."""

    @property
    def scratch_bytes(self) -> int:
        """What it computes in, whatever the sizes."""
        ...

    def fits(self, sizes: Sizes) -> bool:
        """Whether it takes these sizes."""
        ...

    def run(self, sizes: Sizes, addresses: Mapping[str, int], scratch: int) -> Run:
        """Bind sizes and addresses."""
        ...


class WeightsInPlace(Protocol):
    """The memory of the inputs that are an engine's weights; it must live as long."""

    @property
    def addresses(self) -> Mapping[str, int]: ...


class Slot:
    """What the host tells the GPU of one run, and what it is told; two take turns, so one run may be under way."""

    def __init__(self, device: Device, buffers: Buffers) -> None:
        plain = buffers.tensors.plain
        self.told = HostBlock(device, {n: plain[n] for n in TOLD if n in plain}, buffers.most)
        self.chosen = HostBlock(device, {n: plain[n] for n in CHOSEN if n in plain}, buffers.most)
        self.done = Event(device)


class GPUSession:
    """Runs an engine on a GPU, one batch at a time.

    Batches are rounded up to a power of two, so that few graphs serve all. The caches are bound with a capacity that
    grows with the sequences, so a step's cost follows their length; where the engine gives new rows alone, they are
    placed behind the old ones, and nothing else is copied. Tokens are padded to the longest sequence, or packed in one
    row, as the engine takes them. Paged caches are a pool, whose pages sequences get as they grow.

    Args:
        stream: what everything is done on.
        weights: the inputs that are the engine's weights.
        chunk: new tokens of a sequence in one call at most; longer prompts take several calls. 0: as many as it takes.
        graphs: record the decode step once, and replay it.
        kept: how many decode steps of different sizes may be bound and recorded at a time.
        pool: tokens that paged caches hold of all sequences; 0: as many as each batch may come to have.
    """

    def __init__(
        self, bundle: EngineBundle, stream: Stream, executor: Executor, weights: WeightsInPlace,
        *, chunk: int = 0, graphs: bool = True, kept: int = 1, pool: int = 0,
    ) -> None:   # fmt: skip
        self.device, self.stream = stream.device, stream
        self._tensors, self._limits = Tensors(bundle.ranks[0]), bundle.limits
        self._row = bundle.bounds["T"][1] if self._tensors.packed else 0   # packed tokens of one call at most
        self._executor, self._weights, self._graphs, self._kept = executor, weights, graphs, kept
        self._chunk = min(chunk or bundle.limits.max_input_len, bundle.limits.max_input_len)
        self._pool, self._most_pages = pool, bundle.bounds["P"][1] if self._tensors.paged else 0
        self._held: Buffers | None = None
        self._replays: dict[Sizes, Replay] = {}

    @property
    def _buffers(self) -> Buffers:
        assert self._held, "a session is started before it runs"
        return self._held

    def start(self, batch: int, capacity: int) -> None:
        self.device.use()
        self._levels = self._capacities(capacity)
        rounded = min(1 << (batch - 1).bit_length(), self._limits.max_batch_size)
        tokens = min(self._chunk, self._levels[-1])
        packed, pages = min(rounded * tokens, self._row), self._pages(batch, capacity)
        most = self._fitting(Sizes(rounded, tokens, self._levels[-1], packed, pages))
        if not self._held or not self._held.hold(most, self._executor.scratch_bytes):
            self._allocate(most)
        most = replace(most, pages=self._buffers.most.pages)   # which graphs are recorded with
        self._batch, self._most, self._turn = batch, most, 0
        self._table = PageTable(most.batch, pages_of(self._levels[-1]), most.pages) if most.pages else None
        self._sizes = replace(most, tokens=1, capacity=self._levels[0])
        self._buffers.clear(self.stream)

    def _capacities(self, wanted: int) -> list[int]:
        """The capacities that caches have one after the other.

        Where an engine updates them in place, they do not grow: what that costs follows the lengths, not the capacity.
        It is rounded up then, by a quarter at most, so that few graphs serve all.
        """
        if fixed := self._tensors.capacity:
            return [fixed]
        if self._tensors.new:
            return levels(wanted)
        step = max(STEP, 1 << wanted.bit_length() >> 3)
        return [max(wanted, min(-(-wanted // step) * step, self._limits.max_seq_len))]

    def _pages(self, batch: int, capacity: int) -> int:
        """Pages of a pool: those of the batch's sequences, and nobody's; 0 where caches are linear."""
        held = pages_of(self._pool) if self._pool else batch * pages_of(capacity)
        return min(1 + held, self._most_pages)

    def _fitting(self, sizes: Sizes) -> Sizes:
        """The sizes, with as many new tokens as the engine takes in one call."""
        while sizes.tokens > 1 and not self._executor.fits(sizes):
            sizes = replace(sizes, tokens=-(-sizes.tokens // 2))
        return sizes

    def _allocate(self, most: Sizes) -> None:
        self.stream.synchronize()
        self._replays, self._held = {}, None   # whose memory goes first
        self._held = Buffers(self.device, self._tensors, most, self._executor.scratch_bytes)
        self._slots = [Slot(self.device, self._held) for _ in range(2)]
        self._logits = HostBlock(self.device, {"logits": self._tensors.outputs["logits"]}, most)

    def forward(self, input_ids: Ints, input_lengths: Ints, past_lengths: Ints) -> Floats:
        kept = np.empty((0, 0), np.float32)
        for outcome, ends in self.chunks(input_ids, input_lengths, past_lengths):
            if ends.any():
                logits = outcome.logits()
                kept = np.where(ends[:, None], logits, kept) if kept.size else logits
        return kept

    def decode_step(self) -> HostStep:
        return HostStep(self, np.zeros((self._batch, 1), np.int32), np.zeros(self._batch, np.int32))

    def chunks(self, input_ids: Ints, input_lengths: Ints, past_lengths: Ints) -> Iterator[tuple[Outcome, Bools]]:
        """Run new tokens in as many calls as they take: each call's outcome, and which sequences end in it.

        A sequence that has ended already is fed one token more, behind its end, where the next one will overwrite it.
        """
        first, end = 0, int(input_lengths.max())
        while first < end:
            width = self._width(input_lengths - first)
            part, left = input_ids[:, first : first + width], np.clip(input_lengths - first, 0, width)
            past = past_lengths + np.minimum(first, input_lengths)
            outcome = self.run(width, part, left, past)
            yield outcome, (left > 0) & (input_lengths <= first + width)
            first += width

    def _width(self, left: Ints) -> int:
        """How many new tokens of each sequence the next call takes, of those that are left."""
        most = min(self._most.tokens, int(left.max()))
        if not self._row:
            return most

        def row(width: int) -> int:
            return int(self._fed(np.minimum(left, width)).sum())

        return bisect_right(range(1, most + 1), self._most.packed, key=row)

    def _fed(self, lengths: Ints) -> Ints:
        """Tokens of each row of a run, ``int[B]``: one at least, rows beyond the batch being padding of one token."""
        fed = np.ones(self._sizes.batch, np.int32)
        fed[: self._batch] = np.maximum(lengths, 1)
        return fed

    def run(self, tokens: int, ids: Ints | None, lengths: Ints, past: Ints) -> Outcome:
        """Run the engine once, and have the host told when it is done.

        Args:
            tokens: new tokens of each sequence.
            ids: they, ``int[n, tokens]``; the one that the engine chose in the run before where None.
            lengths: ``int[n]``, how many are real; a sequence with none is padding.
            past: ``int[n]``, tokens in each cache.
        """
        self.device.use()
        packed = int(self._fed(lengths).sum()) if self._row else 0
        sizes, slot = replace(self._sizes, tokens=tokens, packed=packed), self._slots[self._turn]
        self._turn ^= 1
        slot.done.synchronize()   # of the run before last, which may still read what it was told
        self._tell(slot, sizes, ids, lengths, past)
        if tokens == 1:
            self._decode(sizes).go()
        else:
            self._executor.run(sizes, self._addresses(sizes), self._buffers.scratch).enqueue(self.stream)
        if self._tensors.new:
            self._grow(int((past + lengths).max()))
            self._buffers.place(self.stream, replace(self._sizes, tokens=tokens), past, lengths)
        if self._tensors.chooses:
            size = slot.chosen.end(CHOSEN[-1], sizes)
            self.stream.copy(slot.chosen.address, self._buffers.arena[CHOSEN[0]], size)
        slot.done.record(self.stream)
        return Outcome(self, slot, sizes, lengths)

    def _tell(self, slot: Slot, sizes: Sizes, ids: Ints | None, lengths: Ints, past: Ints) -> None:
        """Upload a run's inputs.

        Errors:
            TrtcError: no page is left for a sequence that needs one.
        """
        told, fed = slot.told, self._fed(lengths)
        if self._table:
            self._table.hold(past + lengths)
            told.array("pages", sizes)[...] = self._table.array[: sizes.batch]
        told.array("past_lengths", sizes)[...] = 0
        told.array("past_lengths", sizes)[: self._batch] = past
        if self._row:
            told.array("query_starts", sizes)[...] = [0, *fed.cumsum()]
        else:
            told.array("input_lengths", sizes)[...] = fed
        if ids is not None:
            rows = np.zeros((sizes.batch, sizes.tokens), np.int32)
            rows[: self._batch] = ids
            real = np.arange(sizes.tokens) < fed[:, None]
            told.array("input_ids", sizes)[...] = rows[real] if self._row else rows
        last = "input_ids" if ids is not None else "query_starts" if self._row else "input_lengths"
        self.stream.copy(self._buffers.arena[TOLD[0]], told.address, told.end(last, sizes))

    def _decode(self, sizes: Sizes) -> Replay:
        """The engine's run by one token, and the feeding of what it chooses."""
        if sizes not in self._replays:
            if len(self._replays) == self._kept:
                self._replays.clear()
            run = self._executor.run(sizes, self._addresses(sizes), self._buffers.scratch)

            def work() -> None:
                run.enqueue(self.stream)
                self._feed(sizes)

            record = self._graphs and run.capturable(self.stream)
            self._replays[sizes] = Replay(self.stream, work, record=record)
        return self._replays[sizes]

    def _feed(self, sizes: Sizes) -> None:
        """Have the next run read what this one chose."""
        for output in self._tensors.outputs.values():
            if output.feeds == "input_ids":
                arena = self._buffers.arena
                self.stream.copy(arena[output.feeds], arena[output.name], sizes.bytes(output))

    def _addresses(self, sizes: Sizes) -> dict[str, int]:
        return {**self._buffers.addresses(sizes), **self._weights.addresses}

    def _grow(self, tokens: int) -> None:
        """Have the caches hold so many tokens of each sequence."""
        have = self._sizes.capacity
        if tokens > have:
            want = next(level for level in self._levels if level >= tokens)
            self._buffers.grow(self.stream, self._sizes.batch, have, want)
            self._sizes = replace(self._sizes, capacity=want)

    def logits(self, sizes: Sizes, lengths: Ints) -> Floats:
        """The logits of the run that was told last, of each sequence's last real token: ``float[n, V]``."""
        size = self._logits.end("logits", sizes)
        self.stream.copy(self._logits.address, self._buffers.arena["logits"], size)
        self.stream.synchronize()
        logits = self._logits.array("logits", sizes)
        if len(logits) == sizes.packed != sizes.batch:   # of every token, packed
            logits = logits[self._fed(lengths).cumsum() - 1]
        elif logits.ndim == 3:   # of every token, padded
            logits = logits[np.arange(len(logits)), self._fed(lengths) - 1]
        return logits[: self._batch].astype(np.float32)


@dataclass
class Outcome:
    """What one run gave; valid until the run after the next, and the logits until the next."""

    session: GPUSession
    slot: Slot
    sizes: Sizes
    lengths: Ints

    def logits(self) -> Floats:
        """``float[n, V]``; waits."""
        return self.session.logits(self.sizes, self.lengths)

    def best(self, row: int) -> Best:
        """The greatest logits of one sequence; waits."""
        self.slot.done.synchronize()
        ids, logits = (self.slot.chosen.array(name, self.sizes)[row] for name in ("top_ids", "top_logits"))
        return Best(ids, logits.astype(np.float32), lambda: self.logits()[row])


@dataclass
class HostStep:
    """A decode step whose tokens the host chooses."""

    session: GPUSession
    input_ids: Ints
    past_lengths: Ints

    def run(self) -> Floats:
        lengths = np.ones(len(self.past_lengths), np.int32)
        return self.session.run(1, self.input_ids, lengths, self.past_lengths).logits()


class ChoosingGPUSession(GPUSession):
    """A session whose engine gives the likeliest next tokens, too: the host may run one step behind."""

    def prefill(self, input_ids: Ints, input_lengths: Ints) -> Outcome | Kept:
        """Run prompts."""
        kept: dict[int, Best] = {}
        none = np.zeros_like(input_lengths)
        for outcome, ends in self.chunks(input_ids, input_lengths, none):
            if ends.all():
                return outcome
            logits = outcome.logits() if ends.any() else np.empty((0, 0), np.float32)
            for row in map(int, np.flatnonzero(ends)):
                kept[row] = _copied(outcome.best(row), logits[row])
        return Kept(kept)

    def advance(self, past_lengths: Ints, input_ids: Ints | None) -> Outcome:
        """Run one token of each sequence: these, or those that the engine chose in the run before."""
        ids = None if input_ids is None else input_ids.reshape(-1, 1)
        return self.run(1, ids, np.ones_like(past_lengths), past_lengths)


@dataclass
class Kept:
    """What several runs gave, each of other sequences."""

    rows: dict[int, Best]

    def best(self, row: int) -> Best:
        """The greatest logits of one sequence."""
        return self.rows[row]


def _copied(best: Best, logits: Floats) -> Best:
    """The same, in memory of its own."""
    return Best(best.ids.copy(), best.logits, lambda: logits)
