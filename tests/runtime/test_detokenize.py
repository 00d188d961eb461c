"""Streaming detokenisation: the pieces joined are the text decoded at once."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtc.runtime.detokenize import PARTIAL, Detokenizer
from trtc.runtime.tokenizer import Tokenizer, open_tokenizer

MODELS = Path(__file__).resolve().parents[3] / "shared" / "models"
FILES = [
    "stories260K/tokenizer.json", "stories260K/tokenizer.model", "gpt2-shakespeare/tokenizer.json",
    "capp-gpt/tokenizer.json", "tokenizers/phi-3-mini/tokenizer.json", "tokenizers/mistral-v1/tokenizer.model",
]   # fmt: skip
pytestmark = pytest.mark.skipif(not MODELS.is_dir(), reason="no shared models beside the checkout")


@cache
def opened(file: str) -> Any:
    return open_tokenizer(MODELS / file)

# text in scripts that small vocabularies spell in bytes, with joiners and variation selectors
SCRIPTS = st.text(st.sampled_from("aé ñ\n你好世界日本語한국어ไทย😀👩‍🚀🏳️‍🌈\u200d\ufe0f\x00"), max_size=20)


def pieces(tokenizer: Tokenizer, ids: list[int], prompt: list[int] | None = None) -> list[str]:
    detokenizer = Detokenizer(tokenizer, prompt or [])
    return [*map(detokenizer.push, ids), detokenizer.flush()]


@pytest.mark.parametrize("file", FILES)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_pieces_join_to_the_whole_text_of_any_tokens(file: str, data: st.DataObject) -> None:
    tokenizer = opened(file)
    ids: list[int] = data.draw(st.lists(st.integers(0, tokenizer._size + 1) | st.integers(0, 270), max_size=30))
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


@pytest.mark.parametrize("file", FILES)
@given(prompt=SCRIPTS, text=SCRIPTS)
@settings(max_examples=150, deadline=None)
def test_new_text_follows_the_prompts(file: str, prompt: str, text: str) -> None:
    tokenizer = opened(file)
    before, new = tokenizer.encode(prompt), tokenizer.encode(text, special=False)
    got = pieces(tokenizer, new, before)
    assert tokenizer.decode(before) + "".join(got) == tokenizer.decode(before + new)
    assert not any(PARTIAL in piece for piece in got)


@pytest.mark.parametrize("file", FILES[:3])
def test_a_character_comes_whole_and_at_once(file: str) -> None:
    tokenizer = opened(file)
    ids = tokenizer.encode("a 😀 b a", special=False)
    shown = [piece for piece in pieces(tokenizer, ids) if piece]
    assert "".join(shown) == "a 😀 b a"
    assert any("😀" in piece for piece in shown[:-1]), "held back to the end"


def test_the_end_of_the_tokens_shows_what_is_left_of_a_character() -> None:
    tokenizer = opened("gpt2-shakespeare/tokenizer.json")
    ids = tokenizer.encode("a😀")
    assert pieces(tokenizer, ids[:-1])[-2:] == ["", PARTIAL]


@pytest.mark.parametrize("file", FILES)
def test_work_a_token_does_not_grow(file: str) -> None:
    """Tokens decoded in all, per token of a long text: once waiting, once as context, a few for waiting bytes."""
    tokenizer = opened(file)
    text = "Once upon a time there was 你好 a 😀 naïve café. <SOS> geometry_freeform\n" * 40
    ids = tokenizer.encode(text)
    decoded = 0

    class Counting:
        def decode(self, some: list[int]) -> str:
            nonlocal decoded
            decoded += len(some)
            return tokenizer.decode(some)

        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

    counting: Any = Counting()
    assert "".join(pieces(counting, ids)) == tokenizer.decode(ids)
    assert decoded < 12 * len(ids)
