"""Sampling: against transformers' logits processors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from trtc.errors import TrtcError
from trtc.runtime.sampling import Sampler, Sampling, candidates, log_probability, penalize

Array = np.ndarray[Any, Any]


def logits(seed: int, size: int = 100) -> Array:
    return (np.random.default_rng(seed).normal(size=size) * 3).astype(np.float32)


def processed(scores: Array, seen: list[int], *processors: Any) -> Array:
    """What transformers makes of the logits: -inf where a token is out."""
    chain: Any = LogitsProcessorList(processors)
    return chain(torch.tensor([seen], dtype=torch.long), torch.tensor(scores)[None])[0].numpy()


@given(seed=st.integers(0, 2**32), penalty=st.floats(0.3, 3), seen=st.lists(st.integers(0, 99), min_size=1))
@settings(max_examples=50, deadline=None)
def test_repetition_penalty(seed: int, penalty: float, seen: list[int]) -> None:
    scores = logits(seed)
    got = penalize(scores, set(seen), penalty)
    np.testing.assert_allclose(got, processed(scores, seen, RepetitionPenaltyLogitsProcessor(penalty)), rtol=1e-6)


@given(
    seed=st.integers(0, 2**32), temperature=st.floats(0.2, 3), top_k=st.integers(0, 120),
    top_p=st.one_of(st.just(1.0), st.floats(0.01, 0.999)),
)   # fmt: skip
@settings(max_examples=200, deadline=None)
def test_temperature_top_k_and_top_p_keep_the_same_tokens(
    seed: int, temperature: float, top_k: int, top_p: float
) -> None:
    scores = logits(seed)
    shares = torch.softmax(torch.tensor(scores, dtype=torch.float64) / temperature, 0).sort()[0].cumsum(0)
    assume(top_k or (shares - (1 - top_p)).abs().min() > 1e-5)   # on the border, rounding of float32 decides
    warpers: list[Any] = [TemperatureLogitsWarper(temperature)]
    warpers += [TopKLogitsWarper(top_k)] if top_k else []
    warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    want = processed(scores, [0], *warpers)
    ids, kept = candidates((scores / np.float32(temperature)).astype(np.float32), top_k, top_p)
    assert ids.tolist() == np.flatnonzero(np.isfinite(want)).tolist()
    np.testing.assert_allclose(kept, want[ids], rtol=1e-6)


def test_ties_with_the_kth_token_are_kept_as_in_transformers() -> None:
    scores = np.array([1, 3, 2, 2, 0, 2], np.float32)
    assert list(candidates(scores, 2, 1.0)[0]) == [1, 2, 3, 5]
    assert np.isfinite(processed(scores, [0], TopKLogitsWarper(2))).nonzero()[0].tolist() == [1, 2, 3, 5]


def test_the_likeliest_token_is_always_kept() -> None:
    assert list(candidates(logits(0), 0, 1e-9)[0]) == [logits(0).argmax()]


def test_draws_follow_the_distribution() -> None:
    """Pearson's chi-squared of 4,000 seeded draws over 6 tokens, 5 degrees of freedom: 99.9% lie below 20.5."""
    scores = np.array([0, 1, 2, -1, 0.5, 1.5, -np.inf], np.float32)
    sampler = Sampler(Sampling(temperature=0.8, seed=3), 0, [])
    counts = np.bincount([sampler.choose(scores) for _ in range(4000)], minlength=7)
    shares = torch.softmax(torch.tensor(scores) / 0.8, 0).numpy()[:6]
    assert counts[6] == 0
    assert ((counts[:6] - 4000 * shares) ** 2 / (4000 * shares)).sum() < 20.5


def test_greedy_ignores_top_k_and_top_p_but_not_the_penalty() -> None:
    scores = np.array([1, 3, 2.9], np.float32)
    sampler = Sampler(Sampling(top_k=1, top_p=0.1, repetition_penalty=1.5), 0, [])
    assert [sampler.choose(scores) for _ in range(3)] == [1, 2, 1]   # 3 -> 2 < 2.9 -> 1.93 < 2
    assert scores.tolist() == pytest.approx([1, 3, 2.9])   # the engine's buffer is not written to


def test_the_penalty_counts_the_prompt() -> None:
    assert Sampler(Sampling(repetition_penalty=2), 0, [1]).choose(np.array([2, 3], np.float32)) == 0


def test_seeds_and_places_draw_differently_and_repeat() -> None:
    def draws(seed: int, index: int) -> list[int]:
        sampler = Sampler(Sampling(temperature=1, seed=seed), index, [])
        return [sampler.choose(np.zeros(1000, np.float32)) for _ in range(8)]

    assert draws(1, 0) == draws(1, 0)
    assert len({tuple(draws(seed, index)) for seed in range(3) for index in range(3)}) == 9


def test_log_probability_is_log_softmax() -> None:
    scores = logits(4, 1000) * 20
    want = torch.log_softmax(torch.tensor(scores, dtype=torch.float64), 0).numpy()
    np.testing.assert_allclose([log_probability(scores, t) for t in range(1000)], want, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0, but must be at least 1"),
        ({"temperature": -1.0}, "temperature is -1.0, but must be 0 (greedy) or from 1e-9 to 1e9"),
        ({"temperature": float("nan")}, "temperature is nan, but must be 0 (greedy) or from 1e-9 to 1e9"),
        ({"temperature": 1e-40}, "temperature is 1e-40, but must be 0 (greedy) or from 1e-9 to 1e9"),
        ({"top_k": -1}, "top_k is -1, but must be 0 (off) or more"),
        ({"top_p": 0.0}, "top_p is 0.0, but must be above 0 and at most 1 (off)"),
        ({"top_p": 1.5}, "top_p is 1.5, but must be above 0 and at most 1 (off)"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0, but must be from 1e-9 to 1e9 (1 is off)"),
        ({"repetition_penalty": 1e300}, "repetition_penalty is 1e+300, but must be from 1e-9 to 1e9 (1 is off)"),
        ({"seed": -1}, "seed is -1, but must be 0 or more"),
        ({"stop": ["a", ""]}, "stop is ('a', ''), but must be strings of at least one character"),
    ],
)
def test_bad_options(options: Any, text: str) -> None:
    with pytest.raises(TrtcError) as error:
        Sampling(**options)
    assert str(error.value) == f"error: {text}"
