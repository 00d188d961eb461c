"""``trtc build``: what ``trtllm-build`` was, with the options that it had."""

from __future__ import annotations

from typing import Any

import typer

from trtc.cli._classic import translated
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
    with command.make_context("compile", arguments, parent=ctx.parent) as inner:
        command.invoke(inner)
