"""The generation loop of one batch: one prefill, then one decode step a token."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trtc.runtime.sequence import SequenceState, TokenEvent
from trtc.runtime.session import ChoosingSession, Ints, Session

CAPACITY_STEP = 64   # cache capacities are multiples of it, so that like batches share buffers


def generate_batch(
    session: Session, sequences: list[SequenceState], pad_id: int, max_capacity: int
) -> Iterator[TokenEvent]:
    """Generate until all sequences have ended.

    A sequence that has ended stays in the batch: it is fed padding, over and over at one place of its cache.

    Args:
        pad_id: fills the rows of short prompts and of sequences that have ended.
        max_capacity: the most tokens of one sequence that the engine's caches hold.
    """
    lengths = np.array([len(s.prompt_ids) for s in sequences], np.int32)
    needed = max(len(s.prompt_ids) + s.room for s in sequences)
    session.start(len(sequences), min(-(-needed // CAPACITY_STEP) * CAPACITY_STEP, max_capacity))
    prompts = np.full((len(sequences), lengths.max()), pad_id, np.int32)
    for row, sequence in zip(prompts, sequences, strict=True):
        row[: len(sequence.prompt_ids)] = sequence.prompt_ids
    if isinstance(session, ChoosingSession):
        yield from _follow(session, sequences, prompts, lengths)
    else:
        yield from _step(session, sequences, prompts, lengths, pad_id)


def _step(
    session: Session, sequences: list[SequenceState], prompts: Ints, lengths: Ints, pad_id: int
) -> Iterator[TokenEvent]:
    """Choose each token before the next step begins."""
    logits = session.forward(prompts, lengths, np.zeros_like(lengths))
    step, running = session.decode_step(), len(sequences)
    while True:
        for row, sequence in enumerate(sequences):
            if not sequence.finished:
                event = sequence.step(logits[row])
                running -= sequence.finished
                step.input_ids[row, 0] = pad_id if sequence.finished else event.token_id
                step.past_lengths[row] = sequence.past
                yield event
        if not running:
            return
        logits = step.run()


def _follow(
    session: ChoosingSession, sequences: list[SequenceState], prompts: Ints, lengths: Ints
) -> Iterator[TokenEvent]:
    """Begin the next step before the tokens of this one are looked at, wherever they are the likeliest ones.

    A sequence that ends by a token is thus fed once more, which its cache has room for; what it gives is not looked at.
    """
    likeliest = all(s.takes_likeliest for s in sequences)
    outcome, fed = session.prefill(prompts, lengths), False
    tokens = np.zeros(len(sequences), np.int32)
    while True:
        ahead = None
        if likeliest and fed and any(s.room > 1 for s in sequences if not s.finished):
            past = [s.past + (not s.finished and s.room > 1) for s in sequences]
            ahead = session.advance(np.array(past, np.int32), None)
        for row, sequence in enumerate(sequences):
            if not sequence.finished:
                event = sequence.step(outcome.best(row))
                tokens[row] = event.token_id
                yield event
        if all(s.finished for s in sequences):
            return
        past = np.array([s.past for s in sequences], np.int32)
        outcome, fed = ahead or session.advance(past, tokens), True
