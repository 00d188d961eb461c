"""``trtc build``: what ``trtllm-build`` was, with the options that it had."""

from __future__ import annotations

from typing import Any

import typer

from trtc.cli._classic import TABLE, translated
from trtc.cli._shared import say
from trtc.errors import TrtcError

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}   # all options, as they are typed


def build(ctx: typer.Context) -> None:
    """Compile, by the options of trtllm-build: trtc build --checkpoint_dir CKPT --output_dir ENGINE_DIR ...

    Each option is mapped to one of trtc compile, or answered with what replaced it. Options of trtc compile may stand
    among them.
    """
    arguments, lines = translated(ctx.args)
    if not ctx.args:
        raise TrtcError("there is no --checkpoint_dir, but it must say what is compiled", "help: trtc compile --help")
    for line in lines:
        say(line)
    assert ctx.parent
    group: Any = ctx.parent.command
    command = group.commands["compile"]
    _check(arguments, [name for parameter in command.get_params(ctx) for name in parameter.opts])
    with command.make_context("compile", arguments, parent=ctx.parent) as inner:
        command.invoke(inner)


def _check(arguments: list[str], known: list[str]) -> None:
    """Refuse what no version of trtllm-build had, and ``trtc compile`` has not either."""
    from trtc.ir.errors import nearest

    for name in (a.partition("=")[0] for a in arguments if a.startswith("--")):
        if name.replace("_", "-") not in known:
            near = nearest(name.replace("_", "-"), [*known, *(f"--{n}" for n in TABLE)])
            said = f"{name} is given, but neither trtllm-build nor trtc compile has such an option"
            raise TrtcError(said, *near, "help: trtc compile --help")
