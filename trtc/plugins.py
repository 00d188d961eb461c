"""Passes and ops of others: files given with ``--load``, and packages that announce themselves."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Iterable
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from trtc.errors import TrtcError

GROUP = "trtc.passes"   # the entry points of packages that bring passes: each names a module to import


def load_file(path: str | Path) -> None:
    """Run a Python file, which registers its passes as it is imported; a file that was loaded is not run again."""
    file = Path(path).resolve()
    name = f"trtc_loaded.{file.stem}_{abs(hash(file)):x}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise TrtcError(f"{path} is no Python file", "help: --load takes a file of passes, such as my_pass.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module   # dataclasses and get_type_hints look it up while it runs
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        if isinstance(error, TrtcError):
            raise
        at = [f"at {path}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
        raise TrtcError(f"{path} cannot be loaded: {type(error).__name__}: {error}", *at[-1:]) from None


def load_all(files: Iterable[str | Path] | None) -> None:
    """Make what installed packages bring known, and what is in these files."""
    load_installed()
    for file in files or ():
        load_file(file)


@cache
def load_installed() -> None:
    """Import the modules that installed packages announce under ``trtc.passes``, once a process."""
    for entry in entry_points(group=GROUP):
        try:
            entry.load()
        except Exception as error:
            what = f"{entry.value}, which an installed package announces under {GROUP}, cannot be loaded"
            raise TrtcError(f"{what}: {type(error).__name__}: {error}") from None
