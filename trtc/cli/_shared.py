"""What all commands share: how much is said, progress on stderr, files written whole."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtc.errors import TrtcError

Progress = Callable[[str, int, int], None]   # phase, done, total, in bytes or steps: called as work goes on


@dataclass
class Settings:
    """The global options, set before a command runs."""

    quiet: bool = False
    verbose: bool = False
    log_json: bool = False


settings = Settings()


def say(message: str, **facts: Any) -> None:
    """Tell the user something on stderr, unless ``--quiet``; ``facts`` are what ``--log-json`` gives besides."""
    if settings.log_json:
        log("info", message=message, **facts)
    elif not settings.quiet:
        print(message, file=sys.stderr)


def detail(message: str, **facts: Any) -> None:
    """Tell something that only ``--verbose`` or ``--log-json`` shows."""
    if settings.verbose or settings.log_json:
        say(message, **facts)


def complain(error: TrtcError) -> None:
    """Show an error of the user's on stderr."""
    notes: list[str] = [*error.facts, *getattr(error, "__notes__", [])]
    if settings.log_json:
        log("error", message=error.message, notes=notes)
    else:
        print("\n".join([str(error), *getattr(error, "__notes__", [])]), file=sys.stderr)


def log(event: str, **facts: Any) -> None:
    """Write one line of JSON on stderr."""
    print(json.dumps({"event": event, **facts}, ensure_ascii=False, default=str), file=sys.stderr, flush=True)


@contextmanager
def progress() -> Generator[Progress, None, None]:
    """Give a function that shows how far long work is.

    Bars on a terminal, a line of JSON a phase and second with ``--log-json``, else nothing::

        with progress() as report:
            compile(..., progress=report)   # calls report("materialize", bytes_done, bytes_in_all)
    """
    if settings.log_json:
        yield _json_progress()
    elif settings.quiet or not sys.stderr.isatty():
        yield lambda phase, done, total: None
    else:
        with _bars() as report:
            yield report


def _json_progress() -> Progress:
    last: dict[str, float] = {}

    def report(phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done >= total or now - last.get(phase, 0) >= 1:
            last[phase] = now
            log("progress", phase=phase, done=done, total=total)

    return report


@contextmanager
def _bars() -> Generator[Progress, None, None]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    percent = TextColumn("{task.percentage:>3.0f}%")
    columns = [TextColumn("{task.description}"), BarColumn(), percent, TimeElapsedColumn()]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def report(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase)
            bars.update(tasks[phase], completed=done, total=total)

        yield report


def write_atomically(file: Path, text: str) -> None:
    """Write a text file under a temporary name beside it, then rename: never half a file.

    Of a link, the file that it names is written. What is no file, such as a pipe or /dev/null, stays what it is.
    """
    real = Path(os.path.realpath(file))
    if os.path.isdir(real):
        raise TrtcError(f"{file} is a folder, but must be a file")
    if os.path.exists(real) and not os.path.isfile(real):
        real.write_text(text, encoding="utf-8")
        return
    try:
        descriptor, name = tempfile.mkstemp(dir=real.parent, prefix=f".{real.name}.")
    except (FileNotFoundError, NotADirectoryError):
        raise TrtcError(f"{file} cannot be written: {file.parent} is not a folder") from None
    except OSError as error:
        raise TrtcError(f"{file} cannot be written: {(error.strerror or '').lower()}") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, real)
    except BaseException:
        os.unlink(name)
        raise


def _umask() -> int:
    """Return the process's umask; the only way to read it is to set it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
