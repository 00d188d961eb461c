"""Options that belong together: a dataclass in place of many parameters, and sections of ``--help``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from inspect import Parameter, signature
from typing import Any, get_type_hints

from typer.core import TyperCommand


def expanded(function: Callable[..., None]) -> tuple[list[Parameter], Callable[..., None]]:
    """The parameters of a command, and the command as a function of them.

    A parameter whose type is a dataclass stands for the fields of that class, each an option.
    """
    parameters: list[Parameter] = []
    groups: dict[str, type[Any]] = {}
    for name, parameter in signature(function, eval_str=True).parameters.items():   # get_type_hints of 3.10 adds None
        hint = parameter.annotation
        if isinstance(hint, type) and is_dataclass(hint):
            groups[name] = hint
            parameters += _options(hint)
        else:
            parameters.append(parameter.replace(kind=Parameter.KEYWORD_ONLY))

    def call(**arguments: Any) -> None:
        made = {name: group(**{f.name: arguments.pop(f.name) for f in fields(group)}) for name, group in groups.items()}
        function(**arguments, **made)

    return parameters, call


def _options(group: type[Any]) -> list[Parameter]:
    hints = get_type_hints(group, include_extras=True)
    assert all(f.default is not MISSING for f in fields(group)), f"an option of {group.__name__} has no default"
    for name, hint in hints.items():   # without this, a bool would be two options: --it and --no-it
        option = hint.__metadata__[0]
        option.param_decls = option.param_decls or (f"--{name.replace('_', '-')}",)
    kind = Parameter.KEYWORD_ONLY
    return [Parameter(f.name, kind, default=f.default, annotation=hints[f.name]) for f in fields(group)]


class Sections(TyperCommand):
    """A command whose ``--help`` shows options under the headings that they name (``rich_help_panel``)."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            default = "Arguments" if parameter.param_type_name == "argument" else "Options"
            if record:
                sections.setdefault(getattr(parameter, "rich_help_panel", None) or default, []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)
