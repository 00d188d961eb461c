"""How much the suite tries: a part of the cases that repeat others, all of them with TRTC_FUZZ=1."""

from __future__ import annotations

import os

ALL = bool(os.environ.get("TRTC_FUZZ"))


def cases(count: int) -> int:
    """How many mutated files a test tries."""
    return count if ALL else count // 4
