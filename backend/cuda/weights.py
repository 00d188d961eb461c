"""The weights of a plan: constants in the order of use, streamed into one safetensors file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from trtc.backend.bundle import HashingFile, Progress
from trtc.ir.materialize import Stored, stream, weights_of
from trtc.ir.op import Array, Value
from trtc.ir.types import TensorType, i4

ALIGNMENT = 256   # bytes: where each begins in the memory of the device
DTYPES = {
    "f32": "F32", "f16": "F16", "bf16": "BF16", "f8e4m3": "F8_E4M3", "i8": "I8", "u8": "U8", "i32": "I32", "i64": "I64",
    "bool": "BOOL",
}   # fmt: skip


class Weights:
    """The constants that steps read, each once, by a name made of what reads it first."""

    def __init__(self) -> None:
        self._names: dict[Value, str] = {}
        self._taken: Counter[str] = Counter()

    def name(self, value: Value, wanted: str) -> str:
        """The name of a constant."""
        if value not in self._names:
            self._taken[wanted] += 1
            self._names[value] = wanted if self._taken[wanted] == 1 else f"{wanted}.{self._taken[wanted] - 1}"
        return self._names[value]

    @property
    def stored(self) -> list[Stored]:
        """All of them, in the order of use."""
        return [Stored(name, value) for value, name in self._names.items()]

    @property
    def offsets(self) -> dict[str, int]:
        """Where each begins in one allocation."""
        found: dict[str, int] = {}
        end = 0
        for value, name in self._names.items():
            found[name] = end
            end = -(-(end + value.type.nbytes()) // ALIGNMENT) * ALIGNMENT
        return found

    def record(self) -> dict[str, dict[str, int]]:
        """What the plan says of them."""
        offsets = self.offsets
        return {s.name: {"offset": offsets[s.name], "bytes": s.value.type.nbytes()} for s in self.stored}

    @property
    def end(self) -> int:
        """The bytes of the allocation."""
        offsets = self.offsets
        return max((offsets[s.name] + s.value.type.nbytes() for s in self.stored), default=0)

    @property
    def bytes(self) -> int:
        """Of all of them, as they are stored."""
        return sum(value.type.nbytes() for value in self._names)


def write(
    weights: Weights, tensors: Mapping[str, Array], file: HashingFile,
    *, threads: int, progress: Progress, release: Callable[[str], None],
) -> None:   # fmt: skip
    """Write the safetensors file, a constant at a time."""
    header = _header(weights)
    file.write(len(header).to_bytes(8, "little") + header)
    done, total = 0, weights.bytes
    for item, array in stream(weights.stored, tensors, threads=threads, release=release):
        file.write(packed(array, item.value.type).data)
        for key in weights_of(item.value):
            release(key)
        done += item.value.type.nbytes()
        progress("weights", done, total)


def _header(weights: Weights) -> bytes:
    entries: dict[str, Any] = {}
    end = 0
    for item in weights.stored:
        of = item.value.type
        first, end = end, end + of.nbytes()
        dtype, shape = ("U8", [of.nbytes()]) if of.dtype == i4 else (DTYPES[of.dtype.name], list(of.shape))
        entries[item.name] = {"dtype": dtype, "shape": shape, "data_offsets": [first, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def packed(array: Array, of: TensorType) -> Array:
    """The bytes of a tensor; two i4 a byte, the first in the low half."""
    flat = np.ascontiguousarray(array.astype(of.dtype.numpy, copy=False)).reshape(-1)
    if of.dtype == i4:
        pairs = flat.astype(np.uint8).reshape(-1, 2) & 15
        return pairs[:, 0] | pairs[:, 1] << 4
    return flat.view(np.uint8)
