"""PyTorch's zip files: the pickle read without running it, the tensors mapped in place.

Source: torch.serialization, the format since 1.6: an uncompressed zip archive of ``data.pkl`` and a member a storage.
"""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from pathlib import Path
from typing import IO, Any, cast

from trtc.errors import TrtcError
from trtc.frontend.sources.mapped import MAX_RANK, POINTER, Entry, MappedSource
from trtc.frontend.sources.torch_pickle import Function, Inert, Machine
from trtc.frontend.sources.window import Window
from trtc.ir.types import DType, bf16, bool_, f8e4m3, f16, f32, i8, i32, i64, u8

DTYPES: dict[str, DType] = {
    "float32": f32, "float16": f16, "bfloat16": bf16, "float8_e4m3fn": f8e4m3, "int8": i8, "uint8": u8, "int32": i32,
    "int64": i64, "bool": bool_,
}   # fmt: skip
STORAGES = {
    "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16", "CharStorage": "int8",
    "ByteStorage": "uint8", "IntStorage": "int32", "LongStorage": "int64", "BoolStorage": "bool",
    "DoubleStorage": "float64", "ShortStorage": "int16", "UntypedStorage": "uint8",
}   # fmt: skip
"""The element type of each class of storages; that of tensors in an untyped one is stated beside it."""
BYTES = {
    **{name: dtype.bits // 8 for name, dtype in DTYPES.items()},
    "float64": 8, "int16": 2, "uint16": 2, "uint32": 4, "uint64": 8, "float8_e5m2": 1,
}   # fmt: skip
MAX_PICKLE = 16 << 20   # bytes; a tensor takes some 200
FREE_PICKLE, SHARE = 1 << 20, 64   # bytes in any file, and the part of a file: a byte can make 64 in memory
HEADER = struct.Struct("<4s5H3I2H")   # of a zip member: signature, ..., length of name, length of extra
AGAIN = "help: the file is cut short or is no checkpoint; fetch it again"
SAFE = "help: such a pickle can run code; get the checkpoint as safetensors"
OLD = "help: before 1.6, torch wrote another format: load the file with torch and save it again"


@dataclass(frozen=True)
class Storage:
    """Where the elements of some tensors lie."""

    dtype: str
    start: int
    nbytes: int


class TorchSource(MappedSource):
    """The tensors of some files of ``torch.save`` by key; everything else in them is passed over."""

    dtypes = DTYPES

    def read(self, file: Path) -> dict[str, Entry]:
        value = read_torch(file)
        if not isinstance(value, dict):
            raise TrtcError(f"{file.name} holds a {type(value).__name__}, but must hold a dict of tensors")
        every = cast("dict[Any, Any]", value)
        return {key: entry for key, entry in every.items() if isinstance(key, str) and isinstance(entry, Entry)}


def read_torch(
    file: Path, start: int = 0, size: int | None = None, *, inert: Callable[[str, str], bool] | None = None
) -> Any:
    """What a file of ``torch.save`` holds: dicts, lists, numbers and texts, with an `Entry` for each tensor.

    Args:
        start, size: the part of the file that is the archive; all of it where they are left out.
        inert: says by module and name what is passed over, an `Inert` in its place; nothing of it is run.
    Errors:
        TrtcError: the file is no such archive, is cut short, or asks for anything that could run code.
    """
    try:
        with Window(file, start, size) as window, zipfile.ZipFile(cast("IO[bytes]", window)) as archive:
            return _Archive(file, window, archive.infolist(), inert).load()
    except OSError as error:
        raise TrtcError(f"{file} cannot be read: {error.strerror or error}") from None
    except zipfile.BadZipFile:
        with Window(file, start, size) as window:
            notes = [POINTER] if window.read(8) == b"version " else [AGAIN, OLD]
        raise TrtcError(f"{file.name} is no zip archive, but torch.save writes one", *notes) from None
    except (ValueError, TypeError, LookupError, NotImplementedError, struct.error) as error:
        raise TrtcError(f"{file.name} cannot be read as a file of torch.save: {error}", AGAIN) from None


class _Archive:
    """One archive: its members, and what stands for the globals and storages that its pickle names."""

    def __init__(
        self, file: Path, window: Window, members: list[zipfile.ZipInfo], inert: Callable[[str, str], bool] | None
    ) -> None:
        self.file, self.window, self.inert = file, window, inert
        self.members: dict[str, zipfile.ZipInfo] = {}
        for member in members:
            name = member.filename.partition("/")[2]   # the first folder has the name of the file
            if name in self.members:
                raise ValueError(f"member {name} is there twice")
            self.members[name] = member

    def load(self) -> Any:
        order = self._content("byteorder", 16) if "byteorder" in self.members else b"little"
        if order.strip() != b"little":
            raise ValueError("it is big-endian")
        longest = min(MAX_PICKLE, FREE_PICKLE + self.window.size // SHARE)
        return Machine(self._find, self._storage).load(self._content("data.pkl", longest))

    def _content(self, name: str, longest: int) -> bytes:
        start, size = self._span(name)
        if size > longest:
            raise ValueError(f"member {name} has {size} bytes, but must have at most {longest}")
        self.window.seek(start)
        return self.window.read(size)

    def _span(self, name: str) -> tuple[int, int]:
        """The byte at which a member's data begins, behind its own header, and their number."""
        if name not in self.members:
            raise ValueError(f"member {name} is missing")
        member = self.members[name]
        if member.compress_type or member.flag_bits & 1 or member.compress_size != member.file_size:
            raise ValueError(f"member {name} is compressed or encrypted")
        self.window.seek(member.header_offset)
        fields = HEADER.unpack(self.window.read(HEADER.size))
        start = member.header_offset + HEADER.size + fields[-2] + fields[-1]
        if fields[0] != b"PK\3\4" or start + member.file_size > self.window.size:
            raise ValueError(f"member {name} lies outside the file")
        return start, member.file_size

    def _find(self, module: str, name: str) -> Any:
        known: dict[tuple[str, str], Any] = {
            ("torch._utils", "_rebuild_tensor_v2"): Function(self._tensor),
            ("torch._utils", "_rebuild_tensor_v3"): Function(self._tensor_of),
            ("torch._tensor", "_rebuild_from_type_v2"): Function(self._of_type),
            ("torch", "Tensor"): Inert("torch.Tensor"),
            ("torch._utils", "_rebuild_parameter"): Function(_parameter),
            ("torch._utils", "_rebuild_parameter_with_state"): Function(_parameter),
            ("collections", "OrderedDict"): Function(_ordered_dict),
            ("torch", "Size"): Function(_numbers),
        }
        if (module, name) in known:
            return known[module, name]
        if module == "torch" and name in BYTES:
            return name
        if module in ("torch", "torch.storage") and name in STORAGES:
            return STORAGES[name]
        wanted = f"{module}.{name}"
        if self.inert and self.inert(module, name):
            return Inert(wanted)
        raise TrtcError(f"{self.file.name} asks for {wanted:.200}, but a checkpoint needs tensors alone", SAFE)

    def _storage(self, pid: Any) -> Storage:
        kind, dtype, key, _, _ = pid
        if kind != "storage" or not isinstance(dtype, str) or dtype not in BYTES or not isinstance(key, str):
            raise ValueError("a persistent id is that of no storage")
        return Storage(dtype, *self._span(f"data/{key}"))

    def _tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any, dtype: str = "") -> Entry:
        sizes, steps = _numbers(shape), _numbers(strides)
        if not isinstance(storage, Storage) or len(sizes) != len(steps) or len(sizes) > MAX_RANK:
            raise ValueError("a tensor needs a storage and a stride an axis")
        (first,) = _numbers((offset,))
        width, count = BYTES[dtype or storage.dtype], math.prod(sizes)
        span = 1 + sum((n - 1) * s for n, s in zip(sizes, steps, strict=True)) if count else 0
        if (first + span) * width > storage.nbytes or count > span or math.prod(n or 1 for n in sizes) >= 1 << 48:
            have = storage.nbytes // width
            raise ValueError(f"a tensor of {count} elements ends at {first + span}, but its storage has {have}")
        start = self.window.start + storage.start + first * width
        own = tuple(accumulate(sizes[:0:-1], mul, initial=1))[: len(sizes)][::-1]
        dense = all(step == at or n == 1 for step, at, n in zip(steps, own, sizes, strict=True))
        return Entry(self.file, dtype or storage.dtype, sizes, start, start + span * width, None if dense else steps)

    def _tensor_of(self, storage: Any, offset: Any, shape: Any, strides: Any, *more: Any) -> Entry:
        """A tensor whose element type comes last: there are no storages of it alone."""
        *_, dtype = more
        if not isinstance(dtype, str) or dtype not in BYTES:
            raise ValueError("a tensor is of no element type")
        return self._tensor(storage, offset, shape, strides, dtype=dtype)


    def _of_type(self, rebuild: Any, kind: Any, arguments: Any, _: Any) -> Entry:
        """A tensor that has attributes, which are passed over."""
        if rebuild != Function(self._tensor) or not isinstance(kind, Inert):
            raise ValueError("a tensor with attributes is of no known class")
        return self._tensor(*cast("tuple[Any, ...]", arguments))


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _ordered_dict() -> dict[Any, Any]:
    return {}


def _numbers(values: Any) -> tuple[int, ...]:
    if type(values) is not tuple or not all(type(n) is int and 0 <= n < 1 << 48 for n in cast("tuple[Any]", values)):
        raise ValueError("sizes, strides and offsets must be whole numbers that a file can have")
    return cast("tuple[int, ...]", values)
