"""Running commands in this process, for tests of the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

MODEL = Path(__file__).parents[1] / "examples" / "shakespeare"
EXAMPLE = MODEL.parent / "custom_pass.py"
WHAT_TO_GIVE = (
    "  = help: give the directory that holds config.json or latest or flax_model.msgpack or params.json or "
    "model_config.yaml or *.gguf or decoder_with_past.onnx, and the weights"
)
Trtc = Callable[..., tuple[int, str, str]]
"""Takes a command's arguments, returns its exit code, stdout and stderr."""
