"""One sequence while it is generated: its tokens, its text, its end."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from trtc.runtime.detokenize import Detokenizer
from trtc.runtime.sampling import Best, Logits, Sampler, Sampling, log_probability
from trtc.runtime.stopping import StopStrings
from trtc.runtime.tokenizer import Tokenizer

FinishReason = Literal["stop", "length"]


@dataclass(slots=True)   # frozen, it would take five times as long to make, once a token
class TokenEvent:
    """One generated token.

    Args:
        index: the prompt's place in the call.
        token_id: the token.
        text: what it adds to the text; characters and possible stop strings are held back until they are decided.
        logprob: the logarithm of its probability, on request.
        finish_reason: why the sequence ends with it, if it does: a stop token or string, or the length.
    """

    index: int
    token_id: int
    text: str
    logprob: float | None
    finish_reason: FinishReason | None


class SequenceState:
    """Turns the logits of each step into a token and its text, until the sequence ends.

    Args:
        index: the prompt's place in the call.
        prompt_ids: the prompt, at least one token.
        room: the most tokens that can follow.
        sampling: how tokens are chosen.
        stop_ids: tokens that end the sequence.
        tokenizer: gives the text; None leaves it empty.
    """

    def __init__(
        self,
        index: int,
        prompt_ids: list[int],
        room: int,
        sampling: Sampling,
        stop_ids: Collection[int],
        tokenizer: Tokenizer | None,
    ) -> None:
        self.index, self.prompt_ids, self.room = index, prompt_ids, room
        self.past = len(prompt_ids) - 1   # tokens before the newest
        self.finished = False
        self.takes_likeliest = sampling.takes_likeliest   # so that its next token is known without it
        self._logprobs, self._stop_ids = sampling.logprobs, stop_ids
        self._sampler = Sampler(sampling, index, prompt_ids)
        self._text = Detokenizer(tokenizer, prompt_ids) if tokenizer else None
        self._stops = StopStrings(sampling.stop)

    def step(self, logits: Logits | Best) -> TokenEvent:
        """Choose the next token."""
        token = self._sampler.choose(logits)
        self.room -= 1
        self.past += 1
        ends = token in self._stop_ids
        text, found = self._stops.push(self._text.push(token)) if self._text and not ends else ("", False)
        reason: FinishReason | None = "stop" if ends or found else "length" if self.room == 0 else None
        if reason and not found:
            last, found = self._stops.push(self._text.flush() if self._text else "")
            text, reason = text + last + self._stops.flush(), "stop" if found else reason
        self.finished = reason is not None
        logprob = None
        if self._logprobs:
            logprob = log_probability(logits.all() if isinstance(logits, Best) else logits, token)
        return TokenEvent(self.index, token, text, logprob, reason)
