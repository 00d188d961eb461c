"""A part of a file, read as a file of its own: a member of a tar, say."""

from __future__ import annotations

import io
import os
from pathlib import Path


class Window(io.RawIOBase):
    """Bytes ``start..start + size`` of a file; reading beyond gives nothing.

    Args:
        size: up to the end of the file where None.
    """

    def __init__(self, file: Path, start: int = 0, size: int | None = None) -> None:
        self._handle = file.open("rb")
        whole = os.fstat(self._handle.fileno()).st_size
        self.start = start
        self.size = max(0, whole - start if size is None else min(size, whole - start))
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        if at < 0:
            raise ValueError(f"there is no byte {at}")
        self._at = at
        return at

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, self.size - self._at)
        self._handle.seek(self.start + self._at)
        found = self._handle.read(left if size is None or size < 0 else min(size, left))
        self._at += len(found)
        return found

    def close(self) -> None:
        self._handle.close()
        super().close()
