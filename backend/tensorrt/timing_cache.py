"""Timing caches: files of the times that TensorRT has measured of kernels, on one GPU, with one version."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import Any

from trtc.backend.tensorrt.bindings import complaints
from trtc.backend.tensorrt.diagnose import BuildError, Diagnostics
from trtc.errors import TrtcError

log = logging.getLogger("trtc.tensorrt")

UNREAD = "Myelin error from unknown graph"   # what 8.6 says of the part of its own caches that is of whole networks


def load_timing_cache(config: Any, diagnostics: Diagnostics, file: Path | None) -> None:
    """Give a builder's config what an earlier build has measured; without a file, an empty cache to fill.

    Errors:
        TrtcError: the file cannot be read, or is of another GPU or version, or no timing cache.
    """
    try:
        data = file.read_bytes() if file else b""
    except OSError as error:
        raise TrtcError(f"timing cache {file} cannot be read: {(error.strerror or '').lower()}") from None
    said = ""
    cache = config.create_timing_cache(data)
    if any(UNREAD in line for line in (*diagnostics.lines, *complaints)):   # a version that does not read its own
        log.warning("timing cache %s is not used: TensorRT reads none of a network that it compiles whole", file)
        diagnostics.forget()
        cache = config.create_timing_cache(b"")
    try:
        diagnostics.check()
        kept = cache is not None and config.set_timing_cache(cache, ignore_mismatch=False)
        diagnostics.check()
    except BuildError as error:
        said, kept = error.message, False
    if not kept:
        what = f"timing cache {file} is not used: it is damaged, or was measured on another GPU or by another version"
        raise TrtcError(what, *([said] if said else []), "help: remove it, or leave --input-timing-cache out")


def save_timing_cache(config: Any, file: Path) -> None:
    """Write what the build has measured and was given: whole, or not at all.

    Errors:
        TrtcError: the file cannot be written.
    """
    cache = config.get_timing_cache()
    data = memoryview(cache.serialize()) if cache else b""
    temporary = ""
    try:
        descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, file)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise TrtcError(f"timing cache {file} cannot be written: {(error.strerror or '').lower()}") from None


def check_place(file: Path) -> None:
    """Refuse, before anything is built, a place where no file can be written."""
    if not file.parent.is_dir():
        raise TrtcError(f"timing cache {file} cannot be written: {file.parent} is not a folder")
    if not os.access(file.parent, os.W_OK):
        raise TrtcError(f"timing cache {file} cannot be written: {file.parent} is read-only")
