"""From logits to the next token: greedy, temperature, top-k, top-p, repetition penalty."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from trtc.errors import TrtcError

Logits = npt.NDArray[np.float32]   # float32[V], of one sequence


@dataclass(frozen=True)
class Best:
    """The greatest logits of one sequence, as an engine gives them beside all of them.

    Args:
        ids: ``int[K]``, their tokens, the greatest first.
        logits: ``float32[K]``.
        all: gives all of them.
    """

    ids: npt.NDArray[np.int32]
    logits: Logits
    all: Callable[[], Logits]


FINITE = "help: compile with --dtype bfloat16 or float32"


DIVISORS = "from 1e-9 to 1e9"   # beyond, logits divided by one or two of them may leave f32


def _divides(number: float) -> bool:
    return 1e-9 <= number <= 1e9


class SamplingOptions(TypedDict, total=False):
    """The fields of `Sampling`, as keywords of `Engine.generate` and `Engine.stream`."""

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    seed: int
    stop: Iterable[str]
    stop_token_ids: Iterable[int]
    logprobs: bool
    check_numerics: bool


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen, and when a sequence ends.

    The steps are those of transformers, in its order: repetition penalty, temperature, top-k, top-p, a draw.

    Args:
        max_new_tokens: the most tokens that are generated, at least 1.
        temperature: logits are divided by it; 0 takes the likeliest token, and then top_k and top_p have no effect.
        top_k: only the k likeliest tokens are kept; 0 keeps all.
        top_p: only the smallest set of likeliest tokens whose probabilities sum to it is kept, in (0, 1].
        repetition_penalty: logits of tokens already in the prompt or the text are divided by it if positive,
            else multiplied.
        seed: sequence i of a call draws from a generator seeded by (seed, i), whatever else is in its batch.
        stop: strings that end a sequence; the text is cut before them.
        stop_token_ids: tokens that end a sequence, besides the model's own; they are in no text.
        logprobs: also give the logarithm of the probability of each token, of the raw logits, base e.
        check_numerics: check that every logit of every step is a number and below infinity.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop: Iterable[str] = ()
    stop_token_ids: Iterable[int] = ()
    logprobs: bool = False
    check_numerics: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids))
        rules = [
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("temperature", self.temperature == 0 or _divides(self.temperature), f"0 (greedy) or {DIVISORS}"),
            ("top_k", self.top_k >= 0, "0 (off) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1 (off)"),
            ("repetition_penalty", _divides(self.repetition_penalty), f"{DIVISORS} (1 is off)"),
            ("seed", self.seed >= 0, "0 or more"),
            ("stop", "" not in self.stop, "strings of at least one character"),
        ]
        for name, holds, must in rules:
            if not holds:
                raise TrtcError(f"{name} is {getattr(self, name)}, but must be {must}")

    @property
    def takes_likeliest(self) -> bool:
        """Whether each token is the one of the greatest logit, and nothing else is asked of the logits."""
        return self.temperature == 0 and self.repetition_penalty == 1 and not self.reads_all

    @property
    def reads_all(self) -> bool:
        """Whether something is asked of all logits."""
        return self.logprobs or self.check_numerics


class Sampler:
    """Chooses the tokens of one sequence.

    Args:
        sampling: how.
        index: the sequence's place in the call: part of its seed.
        prompt_ids: its prompt, which the repetition penalty counts.
    """

    def __init__(self, sampling: Sampling, index: int, prompt_ids: Iterable[int]) -> None:
        self._sampling, self._index = sampling, index
        self._seen = set(prompt_ids)

    @cached_property
    def _random(self) -> np.random.Generator:
        return np.random.default_rng((self._sampling.seed, self._index))

    def choose(self, logits: Logits | Best) -> int:
        """Return the next token, and remember it."""
        if isinstance(logits, Best):
            logits, ids = self._read(logits)
        else:
            ids = None
        if self._sampling.check_numerics:
            self._check(logits)
        place = self._place(logits)
        if not math.isfinite(logits[place]):
            raise TrtcError(
                f"the engine computed a logit of {logits[place]}, but logits must be finite", FINITE
            )
        token = place if ids is None else int(ids[place])
        if self._sampling.repetition_penalty != 1:
            self._seen.add(token)
        return token

    def _place(self, logits: Logits) -> int:
        """Where the chosen logit stands."""
        sampling = self._sampling
        if sampling.repetition_penalty != 1:
            logits = penalize(logits, self._seen, sampling.repetition_penalty)
        if sampling.temperature == 0:
            return int(logits.argmax())
        ids, scores = candidates(logits / np.float32(sampling.temperature), sampling.top_k, sampling.top_p)
        cumulative = np.exp(scores - scores.max()).cumsum(dtype=np.float64)
        draw = self._random.random() * cumulative[-1]
        return int(ids[min(int(cumulative.searchsorted(draw, "right")), len(ids) - 1)])

    def _read(self, best: Best) -> tuple[Logits, npt.NDArray[np.int32] | None]:
        """The logits that decide, in the order of their tokens, and these; all where the greatest do not decide."""
        sampling = self._sampling
        if sampling.takes_likeliest:
            return best.logits[:1], best.ids[:1]
        scores = best.logits / np.float32(sampling.temperature or 1)
        few = 0 < sampling.top_k < len(scores) and scores[sampling.top_k - 1] > scores[-1]   # all that tie are here
        if few and sampling.temperature and sampling.repetition_penalty == 1 and not sampling.reads_all:
            order = np.argsort(best.ids)
            return best.logits[order], best.ids[order]
        return best.all(), None

    def _check(self, logits: Logits) -> None:
        wrong = np.flatnonzero(~(logits < np.inf))
        if len(wrong):
            raise TrtcError(
                f"the engine computed {len(wrong)} of {len(logits)} logits that are no finite numbers, the first of "
                f"token {wrong[0]} ({logits[wrong[0]]})", FINITE
            )


def penalize(logits: Logits, seen: Iterable[int], penalty: float) -> Logits:
    """Make the tokens ``seen`` less likely: ``x / penalty`` where ``x > 0``, else ``x * penalty``."""
    logits = logits.copy()
    ids = np.fromiter(seen, np.int64)
    logits[ids] = np.where(logits[ids] < 0, logits[ids] * np.float32(penalty), logits[ids] / np.float32(penalty))
    return logits


def candidates(scores: Logits, top_k: int, top_p: float) -> tuple[npt.NDArray[np.intp], Logits]:
    """Return the tokens that top-k and then top-p keep, in ascending order, and their scores.

    Tokens that tie with the k-th are kept; the likeliest token always is.
    """
    ids = np.arange(len(scores))
    if 0 < top_k < len(scores):
        ids = np.flatnonzero(scores >= np.partition(scores, -top_k)[-top_k])
    if top_p < 1:
        weights = np.exp(scores[ids] - scores[ids].max())
        shares = weights / weights.sum()
        small = shares < (1 - top_p) / len(ids)   # even all of them together go: they need no sorting
        order = np.flatnonzero(~small)[np.argsort(shares[~small], kind="stable")]
        keep = shares[small].sum() + shares[order].cumsum() > 1 - top_p
        keep[-1] = True
        ids = np.sort(ids[order[keep]])
    return ids, scores[ids]


def log_probability(logits: Logits, token: int) -> float:
    """Return ``log softmax(logits)[token]``."""
    shifted = logits.astype(np.float64) - logits.max()
    return float(shifted[token] - np.log(np.exp(shifted).sum()))
