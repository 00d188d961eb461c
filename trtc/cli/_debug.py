"""What one watches passes and engines with: ``--explain``, ``--verbose``."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager

from trtc.cli._shared import detail, say


class _Explainer(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage(), source="rewrite")


@contextmanager
def explaining(wanted: bool) -> Generator[None, None, None]:
    """Tell, while this lasts, which rules applied and which skipped."""
    log, handler = logging.getLogger("trtc.rewrite"), _Explainer()
    if wanted:
        log.addHandler(handler)
        log.setLevel(logging.INFO)
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
