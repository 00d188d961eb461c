"""What every command is made by: its options, and how it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.models import OptionInfo

from trtc.cli._groups import expanded


def command(out: Annotated[Path | None, typer.Option("--output", "-o")] = None) -> None:
    """Do nothing."""


def test_an_option_that_is_none_at_first_keeps_its_names() -> None:
    """Python 3.10 hides them in a union with None, where it is asked for the types of a function."""
    (parameter,), _ = expanded(command)
    assert isinstance(parameter.annotation.__metadata__[0], OptionInfo)


ENDLESS = """
import atexit, threading
from trtc.cli import _command
from trtc.errors import UNSTOPPABLE

def build() -> None:
    threading.Thread(target=threading.Event().wait, name=UNSTOPPABLE, daemon=True).start()
    raise KeyboardInterrupt

atexit.register(print, "the interpreter is taken down")
_command(build)(quiet=False, verbose=False, log_json=False)
"""


def test_ctrl_c_ends_a_command_whose_build_goes_on() -> None:
    """What goes on in TensorRT would die of an interpreter that is taken down under it."""
    done = subprocess.run([sys.executable, "-c", ENDLESS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
