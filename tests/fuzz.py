"""How many mutated files a test tries: a quarter, unless TRTC_FUZZ=1 asks for all."""

from __future__ import annotations

import os


def cases(count: int) -> int:
    return count if os.environ.get("TRTC_FUZZ") else count // 4
