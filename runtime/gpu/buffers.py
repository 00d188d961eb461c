"""Every tensor of an engine in the memory of a GPU, and what the host exchanges with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from trtc.runtime.bundle import Rank, Tensor
from trtc.runtime.dtypes import NUMPY
from trtc.runtime.gpu.caches import CacheGroup
from trtc.runtime.gpu.device import Device
from trtc.runtime.gpu.memory import Arena, HostArray, MemoryPlan
from trtc.runtime.gpu.pages import PAGE
from trtc.runtime.gpu.stream import Stream

TOLD = ("past_lengths", "pages", "input_lengths", "query_starts", "input_ids")   # uploaded in one copy, the ids last
CHOSEN = ("input_ids.next", "top_ids", "top_logits")      # downloaded in one copy


@dataclass(frozen=True)
class Sizes:
    """The sizes that an engine's symbols have.

    Args:
        batch: sequences.
        tokens: new tokens of each, the longest; or of one, on average, where they are packed.
        capacity: tokens that the caches hold of each.
        packed: new tokens of all sequences, in one row; 0 where they are padded instead.
        pages: of each pool; 0 where caches are linear.
    """

    batch: int
    tokens: int
    capacity: int
    packed: int = 0
    pages: int = 0

    @cached_property
    def symbols(self) -> Mapping[str, int]:
        """By the name that engine.json has for it."""
        given = {"B": self.batch, "S": self.tokens, "M": self.capacity, "T": self.packed, "P": self.pages}
        return given | {"B + 1": self.batch + 1}

    @property
    def cached(self) -> tuple[int, int]:
        """What caches are made of: sequences and the tokens of each, or pages and the tokens of each."""
        return (self.pages, PAGE) if self.pages else (self.batch, self.capacity)

    def shape(self, tensor: Tensor) -> tuple[int, ...]:
        """The shape of a tensor."""
        return tuple(self.symbols[size] if isinstance(size, str) else size for size in tensor.shape)

    def bytes(self, tensor: Tensor) -> int:
        """The bytes of a tensor."""
        return int(np.prod(self.shape(tensor), dtype=np.int64)) * np.dtype(NUMPY[tensor.dtype]).itemsize


class Tensors:
    """An engine's tensors, by what the runtime does with them.

    Args:
        rank: of an engine bundle.
    """

    def __init__(self, rank: Rank) -> None:
        self.inputs = {t.name: t for t in rank.inputs}
        self.outputs = {t.name: t for t in rank.outputs}
        self.new = {t.appends: t.name for t in rank.outputs if t.appends}
        self.updated = {t.alias: t.name for t in rank.outputs if t.alias}
        self.caches = [t for t in rank.inputs if t.name in self.new or t.name in self.updated]
        apart = {t.name for t in self.caches} | {*self.new.values(), *self.updated.values()}
        every = {**self.inputs, **self.outputs}
        first = [n for n in (*TOLD, *CHOSEN) if n in every]
        self.plain = {n: every[n] for n in [*first, *every] if n not in apart}

    @property
    def capacity(self) -> int | None:
        """Tokens that the caches hold of each sequence, where the engine fixes it."""
        if table := self.inputs.get("pages"):
            return int(table.shape[1]) * PAGE
        return min((size for t in self.caches if isinstance(size := t.shape[2], int)), default=None)

    @property
    def paged(self) -> bool:
        """Whether its caches are pools of pages."""
        return "pages" in self.inputs

    @property
    def packed(self) -> bool:
        """Whether it takes the tokens of all sequences in one row, instead of padded ones."""
        return "query_starts" in self.inputs

    @property
    def chooses(self) -> bool:
        """Whether the engine gives the likeliest next tokens beside the logits."""
        return all(name in self.outputs for name in CHOSEN)

    @cached_property
    def groups(self) -> list[CacheGroup]:
        """The caches, those of one row size together."""
        found: dict[tuple[int, int, bool], list[str]] = {}
        for t in self.caches:
            heads, head_size = t.shape[1], t.shape[3]
            assert isinstance(heads, int) and isinstance(head_size, int)
            row = head_size * np.dtype(NUMPY[t.dtype]).itemsize
            found.setdefault((heads, row, t.name in self.new), []).append(t.name)
        return [
            CacheGroup(tuple(names), {n: self.new[n] for n in names if appends}, heads, row)
            for (heads, row, appends), names in found.items()
        ]


class Buffers:
    """The memory of one engine's tensors, but for its weights.

    Args:
        most: the greatest sizes.
        scratch: bytes that the engine computes in.
    Errors:
        TrtcError: the GPU has not as much free.
    """

    def __init__(self, device: Device, tensors: Tensors, most: Sizes, scratch: int) -> None:
        self.tensors, self.most = tensors, most
        sizes = _part_sizes(tensors, most, scratch)
        purposes = {n: "KV cache" if n.startswith("caches.") else "inputs and outputs" for n in sizes}
        self.arena = Arena(device, MemoryPlan(sizes, purposes | {"activations": "activations"}))
        self.scratch = self.arena["activations"]

    def hold(self, sizes: Sizes, scratch: int) -> bool:
        """Whether tensors of these sizes have room."""
        have, want = self.arena.plan.sizes, _part_sizes(self.tensors, sizes, scratch)
        fits = sizes.batch <= self.most.batch and sizes.tokens <= self.most.tokens
        return fits and all(size <= have[name] for name, size in want.items())

    def clear(self, stream: Stream) -> None:
        """Make the caches zero: what lies beyond a sequence's end counts nothing, but must be a number."""
        for name, size in self.arena.plan.sizes.items():
            if name.startswith("caches."):
                stream.fill(self.arena[name], 0, size)

    def addresses(self, sizes: Sizes) -> dict[str, int]:
        """The address of every tensor; an updated cache is where the cache is."""
        found = {name: self.arena[name] for name in self.tensors.plain}
        for number, group in enumerate(self.tensors.groups):
            found.update(group.addresses(self.arena[f"caches.{number}"], *sizes.cached))
            if group.new:
                new = group.addresses(self.arena[f"new.{number}"], sizes.batch, sizes.tokens)
                found.update((group.new[name], address) for name, address in new)
        return found | {new: found[name] for name, new in self.tensors.updated.items()}

    def grow(self, stream: Stream, batch: int, have: int, want: int) -> None:
        """Lay the caches out anew, for more tokens."""
        for number, group in enumerate(self.tensors.groups):
            group.grow(stream, self.arena[f"caches.{number}"], batch, have, want)

    def place(self, stream: Stream, sizes: Sizes, past: Any, lengths: Any) -> None:
        """Append the new rows to the caches, as far as there are such.

        Args:
            past, lengths: ``int[n]``, of each sequence: tokens in its cache, and how many of the new ones are real.
        """
        for number, group in enumerate(self.tensors.groups):
            if group.new:
                cache, new = self.arena[f"caches.{number}"], self.arena[f"new.{number}"]
                group.place(stream, cache, new, sizes, past.tolist(), lengths.tolist())


def _part_sizes(tensors: Tensors, most: Sizes, scratch: int) -> dict[str, int]:
    """The bytes of each part of the memory, for sizes up to these."""
    sizes = {"activations": scratch}
    for number, group in enumerate(tensors.groups):
        sizes[f"caches.{number}"] = group.bytes(*most.cached)
        if group.new:
            sizes[f"new.{number}"] = max(group.bytes(most.batch, n) for n in range(1, most.tokens + 1))
    return sizes | {name: most.bytes(t) for name, t in tensors.plain.items()}


class HostBlock:
    """Tensors of the host, laid out as they stand side by side in an arena.

    Args:
        tensors: by name, in order.
        most: the greatest sizes.
    """

    def __init__(self, device: Device, tensors: Mapping[str, Tensor], most: Sizes) -> None:
        self._tensors = tensors
        self._plan = MemoryPlan({name: most.bytes(t) for name, t in tensors.items()})
        self._memory = HostArray(device, (self._plan.total,), np.uint8)
        self.address = self._memory.address

    def array(self, name: str, sizes: Sizes) -> Any:
        """One of them."""
        tensor, first = self._tensors[name], self._plan.offsets[name]
        data = self._memory.array[first : first + sizes.bytes(tensor)]
        return data.view(NUMPY[tensor.dtype]).reshape(sizes.shape(tensor))

    def end(self, name: str, sizes: Sizes) -> int:
        """The bytes from the block's begin to the end of one of them."""
        return self._plan.offsets[name] + sizes.bytes(self._tensors[name])
