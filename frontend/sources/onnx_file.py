"""ONNX files: tensors mapped where they lie in the file or beside it, and the model without them.

Source: onnx.proto3 of ONNX 1.20, whose field numbers stand here; ExternalData.md of its documentation.
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from trtc.errors import TrtcError
from trtc.frontend.sources.mapped import MAX_RANK, POINTER, Entry, MappedSource
from trtc.frontend.sources.protobuf import PAYLOAD, Bytes, Field, edited, fields, varints
from trtc.ir.types import DType, bf16, bool_, f8e4m3, f16, f32, i8, i32, i64, u8

DTYPES: dict[str, DType] = {
    "FLOAT": f32, "UINT8": u8, "INT8": i8, "INT32": i32, "INT64": i64, "BOOL": bool_, "FLOAT16": f16,
    "BFLOAT16": bf16, "FLOAT8E4M3FN": f8e4m3,
}   # fmt: skip
NUMBERS = {
    1: "FLOAT", 2: "UINT8", 3: "INT8", 6: "INT32", 7: "INT64", 9: "BOOL", 10: "FLOAT16", 16: "BFLOAT16",
    17: "FLOAT8E4M3FN",
}   # fmt: skip
"""TensorProto.DataType, of the element types that weights have."""
MODEL_GRAPH, GRAPH_NODE, GRAPH_INITIALIZER = 7, 1, 5
NODE_OUTPUT, NODE_KIND, NODE_ATTRIBUTE, ATTRIBUTE_TENSOR = 2, 4, 5, 5
DIMS, DATA_TYPE, FLOATS, NAME, RAW, EXTERNAL, LOCATION = 1, 2, 4, 8, 9, 13, 14   # of a tensor
AGAIN = "help: the file is cut short or is no ONNX model; fetch it again"


@dataclass
class OnnxFile:
    """One file, read.

    Args:
        skeleton: the model, as a file has it, without the tensors that are entries.
        entries: where those lie: by the initializer's name, or by that of a Constant node's output.
    """

    skeleton: bytes = b""
    entries: dict[str, Entry] = field(default_factory=dict[str, Entry])


class OnnxSource(MappedSource):
    """The tensors of an ONNX file by name, and the model without them: its ``skeleton``."""

    dtypes = DTYPES

    def __init__(self, file: Path) -> None:
        self.skeleton = b""
        super().__init__(file.parent, [file.name])

    def read(self, file: Path) -> dict[str, Entry]:
        made = read_onnx(file)
        self.skeleton = made.skeleton
        return made.entries


def read_onnx(file: Path) -> OnnxFile:
    """A model and where its tensors lie; nothing of those is read.

    Errors:
        TrtcError: the file is no protobuf message of a model, or a tensor lies outside its file.
    """
    try:
        with file.open("rb") as handle:
            if not handle.read(1):
                raise TrtcError(f"{file.name} is empty, but must be an ONNX model", AGAIN)
            with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(file, data).model()
    except OSError as error:
        raise TrtcError(f"{file} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        with file.open("rb") as handle:
            note = POINTER if handle.read(8) == b"version " else AGAIN
        raise TrtcError(f"{file.name} cannot be read as an ONNX model: {error}", note) from None


class _Reader:
    """Walks one model; what it copies is less than the file."""

    def __init__(self, file: Path, data: Bytes) -> None:
        self.file, self.data, self.made = file, data, OnnxFile()

    def model(self) -> OnnxFile:
        self.made.skeleton = edited(self.data, 0, len(self.data), {MODEL_GRAPH: self._graph})
        return self.made

    def _graph(self, start: int, stop: int) -> bytes:
        return edited(self.data, start, stop, {GRAPH_NODE: self._node, GRAPH_INITIALIZER: self._initializer})

    def _initializer(self, start: int, stop: int) -> bytes | None:
        return None if self._enter(start, stop, "") else self.data[start:stop]

    def _node(self, start: int, stop: int) -> bytes | None:
        """A node; None for a Constant whose tensor has become an entry."""
        parts = list(fields(self.data, start, stop))
        kinds = [self._text(f) for f in parts if f.number == NODE_KIND and f.wire == PAYLOAD]
        outputs = [self._text(f) for f in parts if f.number == NODE_OUTPUT and f.wire == PAYLOAD]
        attributes = [f for f in parts if f.number == NODE_ATTRIBUTE and f.wire == PAYLOAD]
        if kinds == ["Constant"] and len(outputs) == len(attributes) == 1:
            inner = fields(self.data, attributes[0].start, attributes[0].stop)
            tensors = [f for f in inner if f.number == ATTRIBUTE_TENSOR and f.wire == PAYLOAD]
            if len(tensors) == 1 and self._enter(tensors[0].start, tensors[0].stop, outputs[0]):
                return None
        return self.data[start:stop]

    def _enter(self, start: int, stop: int, name: str) -> bool:
        """Whether a tensor's elements lie in one piece, so that it becomes an entry, under this name or its own."""
        parts = list(fields(self.data, start, stop))
        kind = next((NUMBERS.get(f.value) for f in parts if f.number == DATA_TYPE), None)
        shape = tuple(size for f in parts if f.number == DIMS for size in varints(self.data, f))
        name = name or next((self._text(f) for f in parts if f.number == NAME and f.wire == PAYLOAD), "")
        raw = [f for f in parts if f.wire == PAYLOAD and f.number in ((RAW, FLOATS) if kind == "FLOAT" else (RAW,))]
        outside = any(f.number == LOCATION and f.value for f in parts)
        if kind is None or not name or (len(raw) != 1 and not outside):
            return False
        count = math.prod(shape) if len(shape) <= MAX_RANK and math.prod(n or 1 for n in shape) < 1 << 48 else -1
        size = count * DTYPES[kind].bits // 8
        if outside:
            entry = self._external(name, kind, shape, size, [f for f in parts if f.number == EXTERNAL])
        else:
            entry = Entry(self.file, kind, shape, raw[0].start, raw[0].stop)
        if count < 0 or entry.stop - entry.start != size:
            where, have = f"{self.file.name}: tensor {name}", entry.stop - entry.start
            raise TrtcError(f"{where} has {have} bytes, but is {kind} {list(shape)}", AGAIN)
        self.made.entries[name] = entry
        return True

    def _external(self, name: str, kind: str, shape: tuple[int, ...], size: int, parts: list[Field]) -> Entry:
        """The entry of a tensor that lies in another file of the folder."""
        pairs: dict[str, str] = {}
        for part in parts:
            texts = {f.number: self._text(f) for f in fields(self.data, part.start, part.stop) if f.wire == PAYLOAD}
            pairs[texts.get(1, "")] = texts.get(2, "")
        place, where = PurePosixPath(pairs.get("location", "")), f"{self.file.name}: tensor {name}"
        if place.is_absolute() or ".." in place.parts or not place.parts or "\\" in str(place):
            raise TrtcError(f"{where} lies in {str(place)!r}, but must lie in the model's folder")
        numbers = [pairs.get("offset", "0"), pairs.get("length", str(size))]
        if not all(n.isascii() and n.isdigit() and len(n) < 19 for n in numbers):
            raise TrtcError(f"{where} begins at {numbers[0]!r} and has {numbers[1]!r} bytes, but must have numbers")
        file, (start, length) = self.file.parent / place, map(int, numbers)
        try:
            have = file.stat().st_size
        except (OSError, ValueError):
            raise TrtcError(f"{place} is missing from {self.file.parent}, but {where} lies in it") from None
        if start + length > have:
            raise TrtcError(f"{where} ends at byte {start + length} of {place}, but that has {have}", AGAIN)
        return Entry(file, kind, shape, start, start + length)

    def _text(self, part: Field) -> str:
        return self.data[part.start : part.stop].decode()
