"""Prompts to token ids, checked against what the engine takes."""

from __future__ import annotations

from collections.abc import Sequence

from trtc.errors import TrtcError
from trtc.runtime.bundle import EngineBundle
from trtc.runtime.tokenizer import Tokenizer

Prompt = str | Sequence[int]   # a text, or token ids


def encode_prompt(prompt: Prompt, bundle: EngineBundle, tokenizer: Tokenizer | None) -> list[int]:
    """Return the prompt's tokens; a text of none is the model's bos token.

    Errors:
        TrtcError: a text without a tokenizer, no token at all, too many, or one outside the vocabulary.
    """
    if not isinstance(prompt, str):
        token_ids = list(prompt)
    elif tokenizer is None:
        raise TrtcError(
            f"the prompt is a text, but {bundle.path} has no tokenizer", "help: give token ids instead (--prompt-ids)"
        )
    else:
        bos = bundle.generation.bos_token_id
        token_ids = tokenizer.encode(prompt) or ([] if bos is None else [bos])
    _check(token_ids, bundle)
    return token_ids


def _check(token_ids: list[int], bundle: EngineBundle) -> None:
    if not token_ids:
        raise TrtcError("the prompt is empty, but the model needs at least one token to begin with")
    for token in token_ids:
        if not 0 <= token < bundle.vocab_size:
            raise TrtcError(f"the prompt has token {token}, but the model's vocabulary is 0..{bundle.vocab_size - 1}")
    limits, length = bundle.limits, len(token_ids)
    if length > limits.max_input_len:
        raise TrtcError(
            f"the prompt has {length} tokens, but the engine takes at most {limits.max_input_len}",
            f"help: compile with --max-input-len {length} or more",
        )
    if length >= limits.max_seq_len:
        raise TrtcError(
            f"the prompt has {length} tokens, but the engine holds {limits.max_seq_len} of prompt and text together",
            f"help: compile with --max-seq-len {length + 1} or more",
        )
