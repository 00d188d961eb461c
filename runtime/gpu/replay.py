"""Work that is recorded once and replayed, where it can be recorded."""

from __future__ import annotations

import logging
from collections.abc import Callable

from trtc.errors import TrtcError
from trtc.runtime.gpu.stream import Graph, Stream

log = logging.getLogger("trtc.gpu")


class Replay:
    """Work of a stream: told call by call at first, then recorded as a graph and replayed.

    Args:
        work: tells the stream what to do; the same each time.
        record: whether to record it at all. Work that cannot be recorded goes on being told.
    """

    def __init__(self, stream: Stream, work: Callable[[], None], *, record: bool) -> None:
        self._stream, self._work, self._record = stream, work, record
        self._graph: Graph | None = None
        self._told = False   # once: an engine settles what depends on its sizes when it first runs

    def go(self) -> None:
        """Do it once more."""
        if self._record and self._told and not self._graph:
            self._capture()
        if self._graph:
            self._graph.launch(self._stream)
        else:
            self._work()
            self._told = True

    def _capture(self) -> None:
        try:
            self._graph = self._stream.capture(self._work)
        except TrtcError as error:
            log.info("the decode step runs without a CUDA graph: %s", error.message)
            self._record = False
