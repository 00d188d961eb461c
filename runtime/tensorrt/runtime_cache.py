"""What TensorRT-RTX compiled for a GPU when it first ran a plan, kept beside the plan."""

from __future__ import annotations

import logging
import weakref
from pathlib import Path
from typing import Any

from trtc.runtime.gpu.device import Device
from trtc.runtime.gpu.kept import keep, name_in_files

log = logging.getLogger("trtc.tensorrt")


class RuntimeCache:
    """The runtime cache of one plan on one GPU: read when the first context is made, written when the process ends.

    Args:
        plan: the file of the plan; the cache is beside it.
    """

    def __init__(self, plan: Path, device: Device) -> None:
        self.file = plan.with_name(f"{plan.stem}.{name_in_files(device)}.cache")
        self._cache: Any = None

    def attach(self, config: Any) -> None:
        """Have the contexts of a runtime config read and fill the cache; TensorRT itself has none."""
        if not hasattr(config, "create_runtime_cache"):
            return
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            if self.file.exists() and not self._cache.deserialize(self.file.read_bytes()):
                log.info("%s is of another TensorRT-RTX or GPU, and will be replaced", self.file)
            weakref.finalize(self, save, self._cache, self.file)
        config.set_runtime_cache(self._cache)


def save(cache: Any, file: Path) -> None:
    """Write a cache, if the folder lets us."""
    keep(file, bytes(memoryview(cache.serialize())))
