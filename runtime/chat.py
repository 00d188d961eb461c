"""Chat templates: messages to the text that a chat model was trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from trtc.errors import TrtcError
from trtc.runtime.tokenizer import read_tokenizer_config

if TYPE_CHECKING:
    from jinja2 import Template

Message = Mapping[str, str]   # {"role": "system" | "user" | "assistant", "content": text}


class ChatTemplate:
    """A checkpoint's chat template, rendered in Jinja's sandbox with what transformers gives templates.

    Args:
        source: the template.
        tokens: ``bos_token``, ``eos_token``, ... as text.
    """

    def __init__(self, source: str, tokens: Mapping[str, str]) -> None:
        from jinja2 import TemplateError

        self._tokens = dict(tokens)
        try:
            self._template = _compile(source)
        except TemplateError as error:
            raise TrtcError(f"the chat template cannot be read: {error}") from None

    @staticmethod
    def read(folder: Path) -> ChatTemplate | None:
        """Read ``chat_template.jinja`` or the template in ``tokenizer_config.json``; None if there is neither."""
        config = read_tokenizer_config(folder)
        file = folder / "chat_template.jinja"
        source = file.read_text(encoding="utf-8") if file.exists() else config.get("chat_template")
        if isinstance(source, list):   # several named ones
            entries = cast("list[dict[str, str]]", source)
            source = next((entry["template"] for entry in entries if entry["name"] == "default"), None)
        return ChatTemplate(source, _special_tokens(config)) if source else None

    def render(self, messages: Sequence[Message]) -> str:
        """Return the messages' text, up to where the assistant's answer begins.

        Errors:
            TrtcError: the template refuses the messages.
        """
        plain = [dict(message) for message in messages]
        try:
            return self._template.render(
                messages=plain, tools=None, documents=None, add_generation_prompt=True, **self._tokens
            )
        except Exception as error:   # it is a program, of the checkpoint's
            raise TrtcError(f"the chat template refuses the messages: {error}") from None


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """Return ``bos_token`` and its like; a token is a text, or an object whose ``content`` is the text."""
    texts: dict[str, Any] = {
        key: value.get("content") if isinstance(value, dict) else value   # pyright: ignore[reportUnknownMemberType]
        for key, value in config.items()
        if key.endswith("_token")
    }
    return {key: text for key, text in texts.items() if isinstance(text, str)}


def _compile(source: str) -> Template:
    from jinja2.ext import Extension, loopcontrols
    from jinja2.nodes import Node
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}`` marks the assistant's words for training; here it only passes them on."""

        tags = {"generation"}   # noqa: RUF012

        def parse(self, parser: Parser) -> list[Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    functions: dict[str, Any] = {"raise_exception": _refuse, "strftime_now": _now}
    return environment.from_string(source, globals=functions)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own ``tojson`` escapes HTML; templates are written for one that does not."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)
