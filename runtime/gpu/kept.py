"""What a process found out about a GPU, kept in small files beside an engine for the next one."""

from __future__ import annotations

import logging
import os
import re
from contextlib import suppress
from pathlib import Path

from trtc.runtime.gpu.device import Device

log = logging.getLogger("trtc.gpu")


def name_in_files(device: Device) -> str:
    """A GPU's name as part of a file's: ``nvidia-h100-80gb-hbm3``."""
    return re.sub(r"\W+", "-", device.name).strip("-").lower()


def keep(file: Path, content: bytes) -> bool:
    """Write a file, whole or not at all; whether the folder lets us."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        partial.write_bytes(content)
        partial.replace(file)
    except OSError as error:
        log.info("%s is not written: %s", file, error.strerror)
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        return False
    return True
