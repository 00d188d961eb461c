"""Chat templates: rendered as transformers renders them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from handmade import reference_tokenizer

from trtc.errors import TrtcError
from trtc.runtime.chat import ChatTemplate
from trtc.runtime.tokenizer import open_tokenizer

MESSAGES = [
    {"role": "system", "content": "Be <brief> & 'kind'."},
    {"role": "user", "content": "Hi! 你好"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Why?\n"},
]
LLAMA2 = """{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}
{% set system = messages[0]['content'] %}{% else %}
{% set loop_messages = messages %}{% set system = false %}{% endif %}
{% for message in loop_messages %}
    {%- if message['role'] == 'user' %}
{{ bos_token + '[INST] ' + (system + '\n' if loop.first and system else '') + message['content'].strip() + ' [/INST]' }}
    {%- else %}
{% generation %}{{ ' ' + message['content'] + ' ' + eos_token }}{% endgeneration %}
    {%- endif %}
{% endfor %}"""
TOOLS = """{{ messages | tojson }}|{{ messages | tojson(indent=2) }}
{{ tools is none }}|{{ documents is defined }}|{{ pad_token is defined }}
{%- for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.role }} {% endfor %}
{{ add_generation_prompt }} {{ strftime_now('%Y') | length }}"""


def write(folder: Path, shared_models: Path, **config: Any) -> None:
    shutil.copy(shared_models / "stories260K/tokenizer.json", folder)
    base = json.loads((shared_models / "stories260K/tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**base, **config}))


def rendered(folder: Path) -> str:
    template = ChatTemplate.read(folder)
    assert template is not None
    return template.render(MESSAGES)


def reference(folder: Path) -> str:
    return reference_tokenizer(folder).apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize("source", [LLAMA2, TOOLS], ids=["llama2", "tools"])
def test_templates_in_the_config(shared_models: Path, tmp_path: Path, source: str) -> None:
    write(tmp_path, shared_models, chat_template=source)
    assert rendered(tmp_path) == reference(tmp_path)


def test_a_list_of_templates_has_a_default(shared_models: Path, tmp_path: Path) -> None:
    named = [{"name": "rag", "template": "rag"}, {"name": "default", "template": LLAMA2}]
    write(tmp_path, shared_models, chat_template=named)
    assert rendered(tmp_path) == reference(tmp_path)
    write(tmp_path, shared_models, chat_template=named[:1])
    assert ChatTemplate.read(tmp_path) is None


def test_the_jinja_file_comes_first(shared_models: Path, tmp_path: Path) -> None:
    write(tmp_path, shared_models, chat_template="config")
    (tmp_path / "chat_template.jinja").write_text(LLAMA2)
    assert rendered(tmp_path) == reference(tmp_path)


def test_tokens_may_be_objects(shared_models: Path, tmp_path: Path) -> None:
    bos = {"__type": "AddedToken", "content": "<s>", "lstrip": False, "normalized": False, "rstrip": False}
    write(tmp_path, shared_models, chat_template=LLAMA2, bos_token=bos)
    assert rendered(tmp_path) == reference(tmp_path)


def test_the_tokens_of_a_chat(shared_models: Path) -> None:
    folder = shared_models / "tokenizers/phi-3-mini"
    ids = reference_tokenizer(folder).apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    assert rendered(folder) == reference(folder)
    assert open_tokenizer(folder / "tokenizer.json").encode(rendered(folder), special=False) == ids


def test_no_template(shared_models: Path, tmp_path: Path) -> None:
    assert ChatTemplate.read(shared_models / "stories260K") is None
    assert ChatTemplate.read(tmp_path) is None


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{% for %}", "error: the chat template cannot be read: Expected an expression, got 'end of statement block'"),
        ("{{ 1 // 0 }}", "error: the chat template refuses the messages: integer division or modulo by zero"),
        ("{{ raise_exception('no system') }}", "error: the chat template refuses the messages: no system"),
        (
            "{{ ''.__class__.__mro__ }}",
            "error: the chat template refuses the messages: access to attribute '__class__' of 'str' object is unsafe.",
        ),
        (
            "{{ messages.append(1) }}",
            "error: the chat template refuses the messages: access to attribute 'append' of 'list' object is unsafe.",
        ),
    ],
)
def test_templates_that_fail(source: str, text: str) -> None:
    with pytest.raises(TrtcError) as error:
        ChatTemplate(source, {}).render(MESSAGES)
    assert str(error.value) == text
