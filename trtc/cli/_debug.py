"""What one watches passes with: ``--explain``, and the observers of ``passes/observe.py``."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager

from trtc.cli._shared import say


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
