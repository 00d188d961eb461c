"""Caches that are placed and grown by strided copies hold what arrays would, for any sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from fake_cuda import FakeDriver
from hypothesis import given
from hypothesis import strategies as st

from trtc.runtime.gpu.caches import CacheGroup, levels
from trtc.runtime.gpu.device import open_device
from trtc.runtime.gpu.driver import open_driver
from trtc.runtime.gpu.memory import Arena, HostArray, MemoryPlan
from trtc.runtime.gpu.stream import Stream


@dataclass
class Laid:
    batch: int
    tokens: int
    capacity: int


@given(
    count=st.integers(1, 7), batch=st.integers(1, 4), heads=st.integers(1, 3), row=st.sampled_from([4, 16, 24, 160]),
    capacity=st.integers(1, 700), seed=st.integers(0, 99),
)   # fmt: skip
def test_rows_stay_in_order_through_every_capacity(
    count: int, batch: int, heads: int, row: int, capacity: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    names = tuple(map(str, range(count)))
    group = CacheGroup(names, {n: f"{n}.new" for n in names}, heads, row)
    device = open_device(on=open_driver(FakeDriver()))
    stream, steps = Stream(device), levels(capacity)
    want = random.integers(0, 255, (count, batch, heads, capacity, row)).astype(np.uint8)
    lengths = random.integers(1, capacity + 1, batch)
    most = max(group.bytes(batch, m) for m in steps)
    new = max(group.bytes(batch, m) for m in range(1, capacity + 1))
    arena, past = Arena(device, MemoryPlan({"cache": most, "new": new})), np.zeros(batch, np.int64)
    have = steps[0]
    while (past < lengths).any():
        tokens = int(random.integers(1, capacity + 1))
        take = np.minimum(tokens, lengths - past)
        fits = next(m for m in steps if m >= (past + take).max())
        if fits > have:
            group.grow(stream, arena["cache"], batch, have, fits)
            have = fits
        rows = np.full((count, batch, heads, tokens, row), 255, np.uint8)
        for b, (first, n) in enumerate(zip(past, take, strict=True)):
            rows[:, b, :, :n] = want[:, b, :, first : first + n]
        write(stream, group, arena["new"], rows)
        sizes = Laid(batch, tokens, have)
        group.place(stream, arena["cache"], arena["new"], sizes, past.tolist(), take.tolist())
        past = past + take
    got = read(stream, group, arena["cache"], (count, batch, heads, have, row))
    for b, n in enumerate(lengths):
        np.testing.assert_array_equal(got[:, b, :, :n], want[:, b, :, :n])


def write(stream: Stream, group: CacheGroup, base: int, arrays: Any) -> None:
    for (_, address), array in zip(group.addresses(base, arrays.shape[1], arrays.shape[3]), arrays, strict=True):
        host = HostArray(stream.device, array.shape, np.uint8)
        host.array[...] = array
        assert address % 256 == 0
        stream.copy(address, host.address, host.size)
        stream.synchronize()


def read(stream: Stream, group: CacheGroup, base: int, shape: tuple[int, ...]) -> Any:
    found: list[Any] = []
    for _, address in group.addresses(base, shape[1], shape[3]):
        host = HostArray(stream.device, shape[1:], np.uint8)
        stream.copy(host.address, address, host.size)
        stream.synchronize()
        found.append(host.array.copy())
    return np.stack(found)
