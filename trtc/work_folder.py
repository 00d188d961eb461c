"""The folder that a checkpoint is written in, beside the one it becomes; it stays where a stop can be gone on from."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from trtc.backend.bundle import no_space, swap
from trtc.errors import TrtcError

FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class WorkFolder:
    """Where files are written now.

    Args:
        out: what the folder becomes.
        resume: whether what lies in it is to be gone on with.
    """

    path: Path
    out: Path
    resume: bool

    def keep(self, names: list[str]) -> None:
        """Remove all else: what an interrupted call to other numbers of ranks left, say."""
        for file in self.path.iterdir():
            if file.is_dir() and not file.is_symlink():
                shutil.rmtree(file)
            elif file.name not in names:
                file.unlink()

    def require(self, size: int) -> None:
        """Refuse what the disk has no room for, before anything is written."""
        there = sum(file.stat().st_blocks * 512 for file in self.path.glob("rank*.safetensors"))
        free = shutil.disk_usage(self.path).free
        if free + there < size:
            raise no_space(self.out, size - there, free)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        (self.path / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


@contextmanager
def work_folder(out: Path, *, resume: bool) -> Generator[WorkFolder]:
    """A folder ``NAME.partial`` that becomes ``out`` when all went well.

    It stays where the call is interrupted, the machine stops or the disk is full, and vanishes with other errors, but
    for those of a call that goes on with it.

    Errors:
        TrtcError: ``out`` holds something else than a checkpoint, another call writes it, or the disk is full.
    """
    out = Path(os.path.realpath(out))
    folder = WorkFolder(out.with_name(f"{out.name}.partial"), out, resume)
    _begin(folder)
    with _locked(folder):
        yield from _written(folder)


def _written(folder: WorkFolder) -> Generator[WorkFolder]:
    out = folder.out
    try:
        if not folder.resume:
            folder.keep([])
        yield folder
        swap(folder.path, out)
    except OSError as error:
        if error.errno not in FULL:
            raise
        note = f"help: free some space and go on with --resume, or remove {folder.path.name}"
        raise TrtcError(f"{out}: its disk is full", note) from None
    except Exception:
        if not folder.resume:
            shutil.rmtree(folder.path, ignore_errors=True)
        raise


def _begin(folder: WorkFolder) -> None:
    try:
        if folder.out.exists() and not _is_replaceable(folder.out):
            note = "help: remove it, or give another folder to -o"
            raise TrtcError(f"{folder.out} exists and is no checkpoint of this format", note)
        if folder.path.exists() and not folder.resume:
            _check_leftover(folder.path)
        folder.path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise TrtcError(f"{folder.out} cannot be written: {folder.out.parent} is no folder") from None
    except OSError as error:
        raise TrtcError(f"{folder.out} cannot be written: {error.strerror}") from None


@contextmanager
def _locked(folder: WorkFolder) -> Generator[None]:
    """While this lasts, no other call writes there; where the file system has no locks, none is looked for."""
    descriptor = os.open(folder.path, os.O_RDONLY)
    try:
        if not _lock(descriptor) or not folder.path.exists():   # or what was locked has its last name by now
            note = "help: wait for it, or give another folder to -o"
            raise TrtcError(f"{folder.out} is being written by another call", note)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def _check_leftover(path: Path) -> None:
    """What an interrupted call left has a file of the first rank, if anything."""
    if not path.is_dir() or (any(path.iterdir()) and not (path / "rank0.safetensors").is_file()):
        raise TrtcError(f"{path} exists, but the checkpoint is to be written there first", "help: remove or rename it")


def _is_replaceable(out: Path) -> bool:
    """Whether this is a checkpoint of this format, or an empty folder."""
    if not out.is_dir() or not any(out.iterdir()):
        return out.is_dir()
    try:
        raw: Any = json.loads((out / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(raw, dict) and "architecture" in cast("dict[str, Any]", raw)
