"""Where the tensors of a safetensors file lie."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from trtc.errors import TrtcError
from trtc.runtime.integrity import AGAIN


@dataclass(frozen=True)
class Place:
    """Where a tensor of a file lies, in bytes from its begin; its numbers, and safetensors' name of their type."""

    start: int
    end: int
    count: int
    dtype: str


def read_places(file: Path, keys: Iterable[str]) -> dict[str, Place]:
    """Where these tensors of a safetensors file lie.

    Errors:
        TrtcError: it has no such tensor, or is damaged.
    """
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        total = file.stat().st_size
        header = _header(file, opened.read(size) if 8 + size <= total else b"")
    found: dict[str, Place] = {}
    for key in keys:
        if key not in header:
            raise TrtcError(f"{file} has no tensor {key}, but engine.json lists it")
        start, end = (8 + size + offset for offset in header[key]["data_offsets"])
        if end > total:
            raise TrtcError(f"{file} has {total} bytes, but its tensor {key} ends at {end}", AGAIN)
        found[key] = Place(start, end, prod(header[key]["shape"]), header[key]["dtype"])
    return found


def _header(file: Path, text: bytes) -> dict[str, Any]:
    try:
        return json.loads(text)
    except ValueError:
        raise TrtcError(f"{file} does not begin as a safetensors file must", AGAIN) from None
