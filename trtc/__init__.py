"""trtc: compile LLM checkpoints to TensorRT and ONNX engines.

    bundle = trtc.compile("path/to/model", target="onnx", out="engine")
    for result in trtc.load("engine").generate(["Once upon a time"], max_new_tokens=50):
        print(result.text)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trtc.backend.tensorrt.options import Options as TensorRTOptions
    from trtc.compiler import compile
    from trtc.converter import convert
    from trtc.refitter import refit
    from trtc.runtime.bundle import EngineBundle
    from trtc.runtime.generate import load

__version__ = "0.1.0"
__all__ = ["EngineBundle", "TensorRTOptions", "__version__", "compile", "convert", "load", "refit"]

_HOME = {
    "compile": "trtc.compiler", "convert": "trtc.converter", "EngineBundle": "trtc.runtime.bundle",
    "load": "trtc.runtime.generate", "refit": "trtc.refitter",
    "TensorRTOptions": "trtc.backend.tensorrt.options:Options",
}   # fmt: skip


def __getattr__(name: str) -> Any:
    """Import the compiler or the runtime only when it is asked for: `import trtc` stays quick."""
    if name not in _HOME:
        raise AttributeError(f"module 'trtc' has no attribute {name!r}")
    from importlib import import_module

    module, _, own_name = _HOME[name].partition(":")
    return getattr(import_module(module), own_name or name)
