"""The forms that checkpoints come in, and which one a path is of."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from trtc.errors import TrtcError
from trtc.frontend.checkpoint import Compilable, Format
from trtc.ir.errors import nearest

FORMATS = {
    "trtllm": "trtllm",   # its config.json, too, would make it one of Hugging Face's
    "huggingface": "huggingface",
    "deepspeed": "deepspeed",
    "jax": "jax",
    "meta": "meta",
    "nemo": "nemo",
    "gguf": "gguf",
    "onnx": "onnx.checkpoint",
}
"""Modules of trtc.frontend by name, in the order in which they are looked for; each is imported when it is asked."""
SOURCES: dict[str, tuple[str, ...]] = {
    "auto": tuple(FORMATS),
    "hf": ("huggingface",),
    "modelopt": ("trtllm", "huggingface"),   # exports in both forms
    **{name: (name,) for name in FORMATS},
}
"""The formats that may be meant by a name."""


def open_checkpoint(path: str | Path, form: str = "auto") -> Compilable:
    """The checkpoint in a directory or a file; nothing of its tensors is read yet but the headers.

    Args:
        form: one of SOURCES; which of the formats that it may mean is found out.
    Errors:
        TrtcError: nothing there, no config, an unknown architecture, a key or a file that is missing or wrong.
    """
    if form not in SOURCES:
        raise TrtcError(f"source is {form}, but must be one of {', '.join(SOURCES)}", *nearest(form, SOURCES))
    place, meant = Path(path), SOURCES[form]
    found = _format(meant[0]) if len(meant) == 1 else next((f for f in map(_format, meant) if f.finds(place)), None)
    if found is None and not place.is_dir():
        signs = " or ".join(dict.fromkeys(_format(name).sign for name in meant))
        raise TrtcError(f"{path} is no directory", f"help: give the directory that holds {signs}, and the weights")
    return (found or _format("huggingface")).open(place)


def _format(name: str) -> Format:
    return import_module(f"trtc.frontend.{FORMATS[name]}").FORMAT
