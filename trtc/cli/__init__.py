"""The command line: ``trtc COMMAND``.

One file a command. ``trtc/cli/NAME.py`` holds one public function ``NAME``, which becomes ``trtc NAME``: its
parameters are the options, by typer's rules, and the first line of its docstring is the command's line in
``trtc --help``. There is no list of commands to extend; files that begin with ``_`` are not commands::

    \"\"\"``trtc count``: how many tokens a text has.\"\"\"

    from __future__ import annotations

    from pathlib import Path
    from typing import Annotated

    import typer

    from trtc.cli._shared import say


    def count(file: Annotated[Path, typer.Argument(metavar="FILE", help="The text.")]) -> None:
        \"\"\"Count the tokens of a text.\"\"\"
        from trtc.runtime.tokenizer import open_tokenizer   # everything heavy: here, not at the top
        ...

Rules:

* At the top import only typer, the standard library, ``trtc.errors`` and ``trtc.cli._shared``: all files here are
  imported for ``trtc --help``, and a test says that none brings NumPy or anything else heavy. What annotations
  need must be imported at the top, not under TYPE_CHECKING: typer evaluates them.
* Options that belong together are the fields of a dataclass, which is the type of one parameter (`trtc.cli._groups`).
* A command that reads arguments of its own gives typer's ``context_settings`` for it as ``PASSED_ON``.
* The result goes to stdout; all else (`say`, `detail`, `progress`) to stderr.
* ``--quiet``, ``--verbose`` and ``--log-json`` are added to every command here, and are also taken before its name;
  read them from ``trtc.cli._shared.settings`` if `say` and its like are not enough.
* For a mistake of the user's raise `TrtcError`: message on stderr, exit 2. Any other exception is a bug of ours:
  traceback, exit 1. Ctrl-C: one line, exit 130; clean up in ``finally``.
"""

from __future__ import annotations

import atexit
import errno
import gc
import os
import pkgutil
import signal
import sys
import threading
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from inspect import Parameter, Signature
from typing import Annotated, Any

import typer

from trtc import __version__
from trtc.cli._classic import is_classic
from trtc.cli._groups import Sections, expanded
from trtc.cli._shared import complain, settings
from trtc.errors import UNSTOPPABLE, TrtcError

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but results and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")]
LogJson = Annotated[bool, typer.Option("--log-json", help="Say it in lines of JSON.")]
Version = Annotated[bool, typer.Option("--version", help="Print the version.")]
COMMON = {"quiet": Quiet, "verbose": Verbose, "log_json": LogJson}

# the machine refuses, and the user can do something about it
REFUSALS = {
    errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EACCES, errno.EPERM, errno.EROFS,
    errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EMFILE,
}   # fmt: skip


def main() -> None:
    """Run the command that the process's arguments name."""
    try:
        _main()
    except KeyboardInterrupt:   # before a command begins, which tells it by itself
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _main() -> None:
    _open_streams()
    gc.set_threshold(100_000)   # what imports and graphs make stays: looking for garbage in it takes a fifth of the
    atexit.register(gc.freeze)   # time of a short command, at its start and at its end
    signal.signal(signal.SIGTERM, signal.default_int_handler)   # as Ctrl-C: nothing half-written stays
    app = typer.Typer(
        no_args_is_help=True,
        invoke_without_command=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"], "token_normalize_func": _hyphens},
    )
    app.callback()(_common_options)
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            file = import_module(f"{__name__}.{module.name}")
            passed_on = getattr(file, "PASSED_ON", {})
            app.command(module.name, cls=Sections, context_settings=passed_on)(_command(getattr(file, module.name)))
    arguments = _texts(sys.argv[1:])
    if arguments[:1] == ["compile"] and is_classic(arguments[1:]):
        arguments[0] = "build"
    typer.main.get_command(app)(arguments, prog_name="trtc")


def _open_streams() -> None:
    """Stand-ins for the standard streams that are closed, whose numbers the next files would get."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))   # noqa: SIM115


def _texts(arguments: list[str]) -> list[str]:
    """The arguments, if tokenizers and libraries can take them: bytes that are no UTF-8 are texts to Python alone."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            complain(TrtcError(f"{argument!r} is given, but arguments must be UTF-8"))
            sys.exit(2)
    return arguments


def _hyphens(name: str) -> str:
    """The names of options: ``--tp_size`` is ``--tp-size``."""
    return name.replace("_", "-")


def _common_options(
    quiet: Quiet = False, verbose: Verbose = False, log_json: LogJson = False, version: Version = False
) -> None:
    """Compile LLM checkpoints to TensorRT and ONNX engines, and run them."""
    _set(quiet=quiet, verbose=verbose, log_json=log_json)
    if version:
        print(f"trtc {__version__}")
        raise typer.Exit


def _set(**options: bool) -> None:
    for name, value in options.items():
        setattr(settings, name, value or getattr(settings, name))


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """Add the common options to a command, and turn what it raises into exit codes."""

    parameters, call = expanded(function)

    @wraps(function)
    def run(**arguments: Any) -> None:
        _set(**{name: arguments.pop(name) for name in COMMON})
        try:
            call(**arguments)
        except TrtcError as error:
            complain(error)
            raise typer.Exit(2) from None
        except OSError as error:
            if error.errno not in REFUSALS:
                raise
            complain(TrtcError(f"{error.filename or 'the disk'}: {(error.strerror or '').lower()}"))
            raise typer.Exit(2) from None
        except MemoryError:
            complain(TrtcError("there is not enough memory", "help: fewer --workers, or smaller limits, need less"))
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr, flush=True)
            if any(thread.name == UNSTOPPABLE for thread in threading.enumerate()):
                os._exit(130)
            raise typer.Exit(130) from None

    added = [Parameter(name, Parameter.KEYWORD_ONLY, default=False, annotation=kind) for name, kind in COMMON.items()]
    setattr(run, "__signature__", Signature([*parameters, *added]))   # noqa: B010
    run.__annotations__ = {p.name: p.annotation for p in [*parameters, *added]}
    return run
