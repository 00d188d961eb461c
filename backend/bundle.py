"""Writing engine bundles: a folder that is there whole, or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, TypeAlias, cast

from trtc.errors import TrtcError
from trtc.ir.graph import Graph
from trtc.ir.types import Size, TensorType

FORMAT, VERSION = "trtc-engine", 1
Progress: TypeAlias = Callable[[str, int, int], None]
"""Told of a phase, what is done of it and what there is to do (bytes for "weights")."""


def silent(phase: str, done: int, total: int) -> None:
    """The progress that nobody looks at."""


class HashingFile:
    """A file under construction that hashes what passes, in a thread of its own while the disk is busy."""

    def __init__(self, file: BinaryIO, hasher: Executor) -> None:
        self.file, self.bytes, self._sha, self._hasher = file, 0, hashlib.sha256(), hasher

    def write(self, data: bytes | memoryview) -> int:
        hashed = self._hasher.submit(self._sha.update, data)
        self.file.write(data)
        hashed.result()
        self.bytes += len(data)
        return len(data)

    @property
    def entry(self) -> dict[str, Any]:
        return {"sha256": self._sha.hexdigest(), "bytes": self.bytes}


class Openable(Protocol):
    """A file, or a part of one."""

    def open(self, mode: Literal["rb"], /) -> AbstractContextManager[Any]: ...


class BundleWriter:
    """A bundle under construction, in a folder of its own beside the one it will become.

    Args:
        folder: where the files are written now.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, dict[str, Any]] = {}

    @contextmanager
    def open(self, name: str) -> Generator[HashingFile]:
        """A new file of the bundle, by its name there."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(1) as hasher, path.open("wb") as file:
            hashing = HashingFile(file, hasher)
            yield hashing
        self.files[name] = hashing.entry

    def add(self, name: str, source: Openable | None = None) -> None:
        """A file that lies in the folder already, or a copy of another."""
        lies: Openable = self.folder / name
        with (source or lies).open("rb") as file:
            if source:
                with self.open(name) as copy:
                    shutil.copyfileobj(file, copy, 1 << 20)   # type: ignore[arg-type]
            else:
                sha = hashlib.sha256()
                while chunk := file.read(1 << 20):
                    sha.update(chunk)
                self.files[name] = {"sha256": sha.hexdigest(), "bytes": file.tell()}

    def add_text(self, name: str, text: str) -> None:
        with self.open(name) as file:
            file.write(text.encode())

    def finish(self, engine: Mapping[str, Any]) -> None:
        """Write engine.json, which makes the folder a bundle."""
        document = {"format": FORMAT, "version": VERSION, **engine, "files": self.files}
        (self.folder / "engine.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


@contextmanager
def bundle(out: Path, needed: int) -> Generator[BundleWriter]:
    """A writer whose folder becomes ``out`` when all went well, and vanishes when not.

    Args:
        needed: bytes the bundle will take at least; refused before anything is written if the disk has less.
    Errors:
        TrtcError: ``out`` holds something else than an engine, or the disk is full.
    """
    parent = out.resolve().parent
    folder = parent / f".{out.resolve().name}.{secrets.token_hex(4)}"   # named first: no moment when nobody removes it
    try:
        _prepare(folder, out, needed)
        yield BundleWriter(folder)
        swap(folder, out.resolve())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space(out, needed, shutil.disk_usage(parent).free) from None
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _prepare(folder: Path, out: Path, needed: int) -> None:
    """Make the folder that a bundle is written in."""
    parent = folder.parent
    try:
        if out.exists() and not _is_replaceable(out):
            raise TrtcError(f"{out} exists and is no engine", "help: remove it, or give another folder to -o")
        parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(parent).free
        if free < needed:
            raise no_space(out, needed, free)
        folder.mkdir(mode=0o755)
    except (FileExistsError, NotADirectoryError):
        raise TrtcError(f"{out} cannot be written: {parent} is no folder") from None
    except OSError as error:
        raise TrtcError(f"{out} cannot be written: {error.strerror}") from None


def _is_replaceable(out: Path) -> bool:
    """Whether this is an engine of ours, or an empty folder."""
    if not out.is_dir() or not any(out.iterdir()):
        return out.is_dir()
    try:
        document: Any = json.loads((out / "engine.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and cast("dict[str, Any]", document).get("format") == FORMAT


def swap(folder: Path, out: Path) -> None:
    """Put a finished bundle in its place; what lies there goes only when that is done. Of several at once one stays."""
    old = Path(f"{folder}.old")
    while folder.exists():
        with suppress(FileNotFoundError):   # there is none, or another's swap has just moved it
            os.replace(out, old)
        try:
            os.replace(folder, out)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):   # as after another's swap
                if old.exists():
                    os.replace(old, out)
                raise
        shutil.rmtree(old, ignore_errors=True)


def no_space(out: Path, needed: int, free: int) -> TrtcError:
    note = "help: free some space, or give a folder on another disk to -o"
    return TrtcError(f"{out} needs {needed / 1e6:,.1f} MB, but its disk has {free / 1e6:,.1f} MB free", note)


def signature(graph: Graph) -> dict[str, list[dict[str, Any]]]:
    """A graph's inputs and outputs, as engine.json lists them.

    An output that updates the input X is ``X.next``, an alias of it; ``X.new`` are rows to append to X. An output of
    the graph that is named ``X.next`` itself feeds X in the next step.
    """
    keys = {i.key for i in graph.inputs}

    def tensor(name: str, of: TensorType) -> dict[str, Any]:
        return {"name": name, "dtype": of.dtype.name, "shape": [_printed(s) for s in of.shape]}

    def output(name: str, of: TensorType) -> dict[str, Any]:
        base, _, role = name.rpartition(".")
        if name in keys:
            return tensor(f"{name}.next", of) | {"alias": name}
        said = {"new": {"appends": base}, "next": {"feeds": base}}.get(role, {}) if base in keys else {}
        return tensor(name, of) | said

    outputs = [output(name, v.type) for name, v in graph.outputs.items()]
    return {"inputs": [tensor(i.key, i.type) for i in graph.inputs], "outputs": outputs}


def _printed(size: Size) -> int | str:
    return size if isinstance(size, int) else str(size)
