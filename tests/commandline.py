"""Running commands in this process, for tests of the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

MODEL = Path(__file__).parents[1] / "examples" / "shakespeare"
EXAMPLE = MODEL.parent / "custom_pass.py"
Trtc = Callable[..., tuple[int, str, str]]
"""Takes a command's arguments, returns its exit code, stdout and stderr."""
