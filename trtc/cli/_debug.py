"""What one watches a compilation and an engine with: ``--explain``, ``--verbose``, what TensorRT's builder says."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager

from trtc.cli._shared import detail, say


class _Explainer(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage(), source="rewrite")


class _BuilderLines(logging.Handler):
    """TensorRT's warnings, for ``--verbose``; with ``--monitor-memory`` its lines on memory, always."""

    def __init__(self, memory: bool) -> None:
        super().__init__()
        self.memory = memory

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if self.memory and line.startswith("[MemUsage"):
            say(line, source="tensorrt")
        elif record.levelno >= logging.INFO:
            detail(line, source="tensorrt")


def explaining(wanted: bool) -> AbstractContextManager[None]:
    """Tell, while this lasts, which rules applied and which skipped."""
    return _listening("trtc.rewrite", _Explainer(), logging.INFO if wanted else None)


def builder_lines(memory: bool) -> AbstractContextManager[None]:
    """Tell, while this lasts, what TensorRT's builder says.

    Args:
        memory: and the memory that it takes, which it says among a thousand other lines.
    """
    return _listening("trtc.tensorrt", _BuilderLines(memory), logging.DEBUG if memory else logging.INFO)


@contextmanager
def _listening(name: str, handler: logging.Handler, level: int | None) -> Generator[None, None, None]:
    log = logging.getLogger(name)
    if level is not None:
        log.addHandler(handler)
        log.setLevel(level)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)


class _Teller(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        detail(record.getMessage(), source=record.name.removeprefix("trtc."))


@contextmanager
def detailed(*names: str) -> Generator[None, None, None]:
    """Tell, while this lasts, what these logs say, where ``--verbose`` or ``--log-json`` asks for it."""
    handler, logs = _Teller(logging.INFO), [logging.getLogger(name) for name in names]
    for log in logs:
        log.addHandler(handler)
        log.setLevel(logging.INFO)
    try:
        yield
    finally:
        for log in logs:
            log.removeHandler(handler)
            log.setLevel(logging.NOTSET)
