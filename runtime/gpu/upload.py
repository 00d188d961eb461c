"""Parts of a file to the memory of a GPU: threads read the next piece while the last one travels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from trtc.errors import TrtcError
from trtc.runtime.gpu.memory import HostArray
from trtc.runtime.gpu.stream import Event, Stream
from trtc.runtime.integrity import AGAIN

PIECE = 64 << 20   # bytes that travel at a time: two such pieces of the host's memory take turns
READ = 8 << 20     # bytes that one thread reads at a time
READERS = 8        # threads: one copies 5 to 10 GB/s out of the page cache, which is less than the bus carries


@dataclass(frozen=True)
class Part:
    """Bytes of a file from ``start`` on, and the address where they go."""

    start: int
    size: int
    address: int

    def split(self, most: int) -> Iterator[Part]:
        """The same bytes, so many at a time."""
        for first in range(0, self.size, most):
            yield Part(self.start + first, min(most, self.size - first), self.address + first)


@dataclass
class Stage:
    """Memory of the host that one piece passes through.

    Args:
        free: when the piece before has left it.
        reads: under way.
    """

    memory: HostArray
    free: Event
    piece: list[Part] = field(default_factory=list[Part])
    reads: list[Future[None]] = field(default_factory=list[Future[None]])

    def read(self, pool: ThreadPoolExecutor, file: Path, piece: list[Part]) -> None:
        """Begin to read a piece."""
        self.free.synchronize()
        self.piece, first = piece, 0
        for part in piece:
            for some in part.split(READ):
                self.reads.append(pool.submit(_read, file, some.start, self.memory, first, some.size))
                first += some.size

    def send(self, stream: Stream) -> None:
        """Send the piece on when it has been read."""
        while self.reads:
            self.reads.pop(0).result()
        first = self.memory.address
        for part in self.piece:
            stream.copy(part.address, first, part.size)
            first += part.size
        self.free.record(stream)


def upload(file: Path, parts: Iterable[Part], stream: Stream) -> None:
    """Copy parts of a file to the GPU; done when this returns.

    Errors:
        TrtcError: the file ends before.
    """
    parts = list(parts)
    room = max(1, min(PIECE, sum(part.size for part in parts)))
    stages = [Stage(HostArray(stream.device, (room,), np.uint8), Event(stream.device)) for _ in range(2)]
    with ThreadPoolExecutor(READERS) as pool:
        last: Stage | None = None
        for number, piece in enumerate(_pieces(parts)):
            stage = stages[number % 2]
            stage.read(pool, file, piece)
            if last:
                last.send(stream)
            last = stage
        if last:
            last.send(stream)
    stream.synchronize()


def _pieces(parts: Iterable[Part]) -> Iterator[list[Part]]:
    """Parts, of `PIECE` bytes together at most."""
    piece, size = list[Part](), 0
    for part in (some for whole in parts for some in whole.split(PIECE)):
        if size + part.size > PIECE:
            yield piece
            piece, size = [], 0
        piece.append(part)
        size += part.size
    if piece:
        yield piece


def _read(file: Path, start: int, memory: HostArray, first: int, size: int) -> None:
    """Read bytes of a file into the host's memory from its byte ``first`` on."""
    view = memory.array[first : first + size].data
    with file.open("rb", buffering=0) as opened:
        opened.seek(start)
        while view:
            count = opened.readinto(view)
            if not count:
                raise TrtcError(f"{file} ends at byte {opened.tell()}, but must have {start + size}", AGAIN)
            view = view[count:]
