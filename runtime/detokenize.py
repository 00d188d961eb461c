"""Text from tokens as they come."""

from __future__ import annotations

from collections.abc import Iterable

from trtc.runtime.tokenizer import Tokenizer

PARTIAL = "\N{REPLACEMENT CHARACTER}"   # what decoding gives for a character whose bytes are not all there


class Detokenizer:
    """Decodes a sequence token by token.

    The pieces joined are the text of all tokens decoded at once, less the prompt's. A piece ends where a character
    ends. Each step decodes the last few tokens only: those that wait, and before them as context (does a space lead
    the text? does a byte run continue?) those that made the last visible piece.

    Args:
        tokenizer: decodes.
        prompt_ids: the tokens before the first pushed; their text is in no piece.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Iterable[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._context = [i for i in prompt_ids if not tokenizer.is_hidden(i)]
        self._shown = tokenizer.decode(self._context).rstrip(PARTIAL)   # the context's text
        self._waiting: list[int] = []

    def push(self, token_id: int) -> str:
        """Return the text that this token completes; empty if the character is not yet decided."""
        if self._tokenizer.is_hidden(token_id):
            return ""
        self._waiting.append(token_id)
        if self._tokenizer.is_byte(token_id):
            return ""
        text = self._tokenizer.decode(self._context + self._waiting)
        return "" if text.endswith(PARTIAL) else self._release(text)

    def flush(self) -> str:
        """Return the text of the tokens that wait: no more come."""
        return self._release(self._tokenizer.decode(self._context + self._waiting)) if self._waiting else ""

    def _release(self, text: str) -> str:
        piece = text[len(self._shown) :]
        alone = self._tokenizer.decode(self._waiting)
        if alone.strip():
            self._context, self._shown = self._waiting, alone
        else:   # blank text is no context: decoders strip spaces that lead
            self._context, self._shown = self._context + self._waiting, text
        self._waiting = []
        return piece
