"""Text from an engine: ``load(engine_dir).generate(prompts)``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from threading import Lock
from typing import TYPE_CHECKING

from trtc.errors import TrtcError
from trtc.runtime.batch import generate_batch
from trtc.runtime.bundle import EngineBundle
from trtc.runtime.chat import ChatTemplate, Message
from trtc.runtime.options import LoadOptions, SessionOptions
from trtc.runtime.prompts import Prompt, encode_prompt
from trtc.runtime.sampling import Sampling, SamplingOptions
from trtc.runtime.sequence import FinishReason, SequenceState, TokenEvent
from trtc.runtime.session import Session, open_session
from trtc.runtime.tokenizer import Tokenizer, open_tokenizer

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass
class Completion:
    """What follows one prompt.

    Args:
        prompt: the prompt, if it was a text.
        prompt_token_ids: its tokens.
        text: the new text; empty without a tokenizer.
        token_ids: the new tokens, with the stop token that ended them.
        finish_reason: "stop" for a stop token or string, "length" for max_new_tokens or a full cache.
        logprobs: the logarithm of each new token's probability, on request.
    """

    prompt: str | None
    prompt_token_ids: list[int]
    text: str = ""
    token_ids: list[int] = field(default_factory=list[int])
    finish_reason: FinishReason | None = None
    logprobs: list[float] | None = None

    def append(self, event: TokenEvent) -> None:
        """Add one token."""
        self.text += event.text
        self.token_ids.append(event.token_id)
        self.finish_reason = event.finish_reason
        if event.logprob is not None:
            self.logprobs = self.logprobs or []
            self.logprobs.append(event.logprob)


class Engine:
    """An engine ready to generate.

    Args:
        bundle: what it is.
        session: runs its model.
    """

    def __init__(self, bundle: EngineBundle, session: Session) -> None:
        self.bundle = bundle
        self._session = session
        self._busy = Lock()

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The checkpoint's tokenizer, if it came with one."""
        name = self.bundle.tokenizer
        return open_tokenizer(self.bundle.path / name) if name else None

    @cached_property
    def chat_template(self) -> ChatTemplate | None:
        """The checkpoint's chat template, if it came with one."""
        return ChatTemplate.read(self.bundle.path)

    def generate(self, prompts: str | Iterable[Prompt], **options: Unpack[SamplingOptions]) -> list[Completion]:
        """Continue prompts, those of one batch together; more than the engine takes at once go batch by batch.

        Args:
            prompts: texts or lists of token ids, in any mixture.
            options: the fields of `Sampling`.
        Result:
            One completion a prompt, in order.
        """
        prompts = _list(prompts)
        token_ids = list(map(self.encode, prompts))
        completions = [
            Completion(prompt if isinstance(prompt, str) else None, ids)
            for prompt, ids in zip(prompts, token_ids, strict=True)
        ]
        for event in self._events(token_ids, Sampling(**options)):
            completions[event.index].append(event)
        return completions

    def stream(self, prompts: str | Iterable[Prompt], **options: Unpack[SamplingOptions]) -> Iterator[TokenEvent]:
        """Continue prompts as `generate` does, and yield each token as it comes, whichever prompt it continues."""
        return self._events(list(map(self.encode, _list(prompts))), Sampling(**options))

    def encode(self, prompt: Prompt) -> list[int]:
        """Return the tokens of a prompt, checked against what the engine takes."""
        return encode_prompt(prompt, self.bundle, self.tokenizer)

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Return the tokens of messages in the checkpoint's chat template, up to where the answer begins."""
        if self.tokenizer is None or self.chat_template is None:
            raise TrtcError(f"messages need a chat template, but {self.bundle.path} has none")
        return self.tokenizer.encode(self.chat_template.render(messages), special=False)

    def _events(self, prompts: list[list[int]], sampling: Sampling) -> Iterator[TokenEvent]:
        """Check that the engine can do what is asked, then begin."""
        if sampling.stop and self.tokenizer is None:
            raise TrtcError(
                f"stop strings need a tokenizer, but {self.bundle.path} has none", "help: give stop token ids instead"
            )
        most, longest = sampling.max_new_tokens, self.bundle.limits.max_seq_len
        stop_ids = {*self.bundle.generation.eos_token_ids, *sampling.stop_token_ids}
        return self._run([
            SequenceState(index, ids, min(most, longest - len(ids)), sampling, stop_ids, self.tokenizer)
            for index, ids in enumerate(prompts)
        ])

    @property
    def _pad_id(self) -> int:
        """The token that pads, if the embedding has it: checkpoints may name one that was added to their tokenizer."""
        stated = self.bundle.generation.pad_token_id or 0
        return stated if stated < self.bundle.vocab_size else 0

    def _run(self, sequences: list[SequenceState]) -> Iterator[TokenEvent]:
        limits = self.bundle.limits
        if not self._busy.acquire(blocking=False):
            raise TrtcError(
                "the engine is generating already, but has one set of caches",
                "help: finish or close the other stream, or load the engine twice",
            )
        try:
            for first in range(0, len(sequences), limits.max_batch_size):
                batch = sequences[first : first + limits.max_batch_size]
                yield from generate_batch(self._session, batch, self._pad_id, limits.max_seq_len)
        finally:
            self._busy.release()


def _list(prompts: str | Iterable[Prompt]) -> list[Prompt]:
    """Return the prompts as a list; one text is one prompt."""
    result: list[Prompt] = [prompts] if isinstance(prompts, str) else list(prompts)
    for prompt in result:
        if isinstance(prompt, int):
            raise TrtcError(f"a prompt is {prompt}, but must be a text or a list of token ids")
    return result


def load(path: str | PathLike[str], *, verify: bool = True, **options: Unpack[LoadOptions]) -> Engine:
    """Load the engine bundle in the folder ``path``.

    Args:
        verify: hash every file of the bundle first.
        options: the fields of `SessionOptions`.
    """
    how = SessionOptions(**options)
    bundle = EngineBundle.open(path, verify)
    return Engine(bundle, open_session(bundle, how))
