"""What every command is made by: its options, and how it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from commandline import MODEL
from typer.models import OptionInfo

from trtc import EngineBundle
from trtc.cli._groups import expanded


def command(out: Annotated[Path | None, typer.Option("--output", "-o")] = None) -> None:
    """Do nothing."""


def test_an_option_that_is_none_at_first_keeps_its_names() -> None:
    """Python 3.10 hides them in a union with None, where it is asked for the types of a function."""
    (parameter,), _ = expanded(command)
    assert isinstance(parameter.annotation.__metadata__[0], OptionInfo)


def trtc(arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a shell, for what is asked of streams."""
    command = f'exec "{sys.executable}" -m trtc {arguments}'
    return subprocess.run(command, shell=True, capture_output=True, text=True, check=False)


def test_a_command_does_without_the_streams_that_are_closed(shakespeare: Path, tmp_path: Path) -> None:
    """A stream's number must not be given to a file of the engine: what libraries say would end in it."""
    done = trtc(f"compile {MODEL} --target onnx -o {tmp_path / 'engine'} <&- >&- 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    EngineBundle.open(tmp_path / "engine", verify=True)   # by its checksums
    done = trtc(f"run {shakespeare} --prompt God --max-new-tokens 2 --output-json {tmp_path / 'said'} >&-")
    assert (done.returncode, done.stderr) == (0, "") and "save" in (tmp_path / "said").read_text()
    done = trtc("opt - -p cse <&-")
    assert done.returncode == 2 and done.stderr.startswith("error: expected `graph`, found `end of text`")


def test_arguments_are_utf8(shakespeare: Path) -> None:
    done = trtc(f"run {shakespeare} --prompt $(printf 'a\\377')")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: 'a\\udcff' is given, but arguments must be UTF-8\n"


EARLY = """
import signal, sys, trtc.cli, typer.main
typer.main.get_command = lambda app: signal.raise_signal(signal.SIGTERM)
sys.argv = ["trtc", "ops"]
trtc.cli.main()
"""


def test_an_interrupt_before_the_command_begins() -> None:
    done = subprocess.run([sys.executable, "-c", EARLY], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


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
