"""The forms that checkpoints come in, and which one a path is of."""

from __future__ import annotations

from pathlib import Path

from trtc.errors import TrtcError
from trtc.frontend import deepspeed, gguf, huggingface, jax, meta, nemo, trtllm
from trtc.frontend.checkpoint import Compilable, Format
from trtc.frontend.onnx import checkpoint as onnx
from trtc.ir.errors import nearest

FORMATS: dict[str, Format] = {
    "trtllm": trtllm.FORMAT,   # its config.json, too, would make it one of Hugging Face's
    "huggingface": huggingface.FORMAT,
    "deepspeed": deepspeed.FORMAT,
    "jax": jax.FORMAT,
    "meta": meta.FORMAT,
    "nemo": nemo.FORMAT,
    "gguf": gguf.FORMAT,
    "onnx": onnx.FORMAT,
}
"""By name, in the order in which they are looked for."""


def open_checkpoint(path: str | Path, form: str = "") -> Compilable:
    """The checkpoint in a directory or a file; nothing of its tensors is read yet but the headers.

    Args:
        form: one of FORMATS; found out where empty.
    Errors:
        TrtcError: nothing there, no config, an unknown architecture, a key or a file that is missing or wrong.
    """
    place, every = Path(path), list(FORMATS.values())
    if form and form not in FORMATS:
        raise TrtcError(f"source is {form}, but must be one of {', '.join(FORMATS)}", *nearest(form, FORMATS))
    found = FORMATS[form] if form else next((one for one in every if one.finds(place)), None)
    if found is None and not place.is_dir():
        signs = " or ".join(dict.fromkeys(one.sign for one in every))
        raise TrtcError(f"{path} is no directory", f"help: give the directory that holds {signs}, and the weights")
    return (found or huggingface.FORMAT).open(place)
