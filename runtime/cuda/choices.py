"""Which algorithms of cuBLASLt were the fastest on a GPU, kept beside the engine."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, cast

from trtc.runtime.gpu.device import Device
from trtc.runtime.gpu.kept import keep, name_in_files

FORMAT, VERSION = "trtc.cublaslt", 1
SIZE = 64   # bytes of an algorithm

log = logging.getLogger("trtc.cuda")


class Choices:
    """Algorithms by what they were chosen for: read when the engine is loaded, written whenever one is chosen.

        {"format": "trtc.cublaslt", "version": 1, "gpu": "NVIDIA H100 80GB HBM3", "library": 130100,
         "algorithms": {"1024 x 4096 by 4096 x 6144 in bf16, ...": 128 hexadecimal digits, ...}}

    A file that is damaged, or of another GPU or library, counts as none, and is replaced.

    Args:
        folder: of the engine; it may be read-only, as choices are then made again by each process.
        library: the version of cuBLASLt, which alone can read its algorithms.
    """

    def __init__(self, folder: Path, device: Device, library: int) -> None:
        self.file = folder / f"{name_in_files(device)}.cublaslt.json"
        self._head = {"format": FORMAT, "version": VERSION, "gpu": device.name, "library": library}
        self._algorithms, self._writes = self._read(), True

    def get(self, key: str) -> bytes | None:
        """The algorithm that was chosen."""
        return self._algorithms.get(key)

    def put(self, key: str, algorithm: bytes) -> None:
        """Remember a choice, and those that other processes have written meanwhile."""
        self._algorithms[key] = algorithm
        if self._writes:
            self._algorithms = {**self._read(), **self._algorithms}
            said = {key: algorithm.hex() for key, algorithm in sorted(self._algorithms.items())}
            self._writes = keep(self.file, json.dumps({**self._head, "algorithms": said}, indent=1).encode())

    def _read(self) -> dict[str, bytes]:
        try:
            said: Any = json.loads(self.file.read_text(encoding="utf-8"))
            head = {name: said[name] for name in self._head}
            found = {key: bytes.fromhex(digits) for key, digits in cast("dict[str, str]", said["algorithms"]).items()}
        except FileNotFoundError:
            return {}
        except OSError as error:
            log.info("%s is not read: %s", self.file, error.strerror)
            return {}
        except (ValueError, TypeError, LookupError, AttributeError):
            log.info("%s is damaged, and will be replaced", self.file)
            return {}
        if head != self._head or any(len(algorithm) != SIZE for algorithm in found.values()):
            log.info("%s is of another GPU, cuBLASLt or trtc, and will be replaced", self.file)
            return {}
        return found
