"""Engines with a paged cache give what those with a linear one and transformers give, whatever ends at a page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emulated_cuda import compile_emulated, install
from fake_cuda import FakeDriver
from models import checkpoint, load, torch

import trtc
from trtc.errors import TrtcError
from trtc.runtime.generate import Engine
from trtc.runtime.gpu.pages import PageTable
from trtc.runtime.gpu.session import GPUSession

LIMITS = {"max_batch_size": 4, "max_input_len": 140, "max_seq_len": 150}
MODEL, NEW = "mha", 3
BORDERS = (65, 1, 63, 64)
Opener = Callable[..., Engine]


def prompt(length: int) -> list[int]:
    return np.random.default_rng(length).integers(3, 97, length).tolist()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Opener:
    """Loads an engine of one model in f32; the module's tests share them."""

    def load(*, paged: bool = True, driver: FakeDriver | None = None, **options: Any) -> Engine:
        folder: Path = tmp_path_factory.getbasetemp() / f"cuda-{'paged' if paged else 'linear'}"
        if not folder.exists():
            compile_emulated(monkeypatch, checkpoint(MODEL), folder, "float32", paged_kv_cache=paged, **LIMITS)
        install(monkeypatch, driver)
        return trtc.load(folder, **options)

    return load


def greedy(ids: list[int]) -> list[int]:
    """What transformers continues a prompt with, up to the stop token."""
    model, made = load(checkpoint(MODEL)), list[int]()
    while len(made) < NEW and 2 not in made:
        with torch.no_grad():
            made.append(int(model(torch.tensor([[*ids, *made]])).logits[0, -1].argmax()))
    return made


def tokens(engine: Engine, lengths: tuple[int, ...]) -> list[list[int]]:
    return [c.token_ids for c in engine.generate([prompt(n) for n in lengths], max_new_tokens=NEW)]


def logits(engine: Engine, lengths: tuple[int, ...]) -> Any:
    """Logits [call, sequence, word] of a prefill and two steps by fixed tokens."""
    session: Any = engine._session   # pyright: ignore[reportPrivateUsage]
    session.start(len(lengths), max(lengths) + 2)
    many, past = np.array(lengths, np.int32), np.zeros(len(lengths), np.int32)
    ids = np.zeros((len(lengths), max(lengths)), np.int32)
    for row, n in zip(ids, lengths, strict=True):
        row[:n] = prompt(n)
    found = [session.forward(ids, many, past).copy()]
    for step in (0, 1):
        one = np.full((len(lengths), 1), 7 + step, np.int32)
        found.append(session.forward(one, np.ones_like(many), many + step).copy())
    return np.stack(found)


def test_greedy_tokens_are_those_of_transformers_batch_after_batch(opened: Opener) -> None:
    driver = FakeDriver()
    engine = opened(driver=driver)
    for lengths in (BORDERS, (130,), (64, 65)):
        assert tokens(engine, lengths) == [greedy(prompt(n)) for n in lengths]
    assert driver.calls.count("cuStreamBeginCapture") == 3, "a graph for each batch size, whatever the lengths"
    assert driver.calls.count("cuMemcpy3DAsync") == 0, "growth copies nothing"


def test_logits_are_those_of_a_linear_cache_bit_by_bit(opened: Opener) -> None:
    want = logits(opened(paged=False), BORDERS[:3])
    np.testing.assert_array_equal(logits(opened(), BORDERS[:3]), want)


@pytest.mark.parametrize("options", [{"prefill_chunk": 40}, {"cuda_graphs": False}], ids=["chunks", "no graphs"])
def test_chunks_and_steps_without_graphs_give_the_same(opened: Opener, options: Any) -> None:
    assert tokens(opened(**options), (64, 1, 63)) == [greedy(prompt(n)) for n in (64, 1, 63)]


def test_a_pool_is_told_and_taken_once_and_serves_what_it_holds(
    opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    """Four sequences in a pool of two linear caches' size: three are short."""
    caplog.set_level("INFO", "trtc.gpu")
    driver = FakeDriver()
    engine = opened(driver=driver, kv_cache_tokens=5 * 64)
    token = engine.bundle.cache.bytes_per_token
    assert tokens(engine, (63, 1, 1, 1)) == [greedy(prompt(n)) for n in (63, 1, 1, 1)]
    session: Any = engine._session   # pyright: ignore[reportPrivateUsage]
    sizes: dict[str, int] = session._buffers.arena.plan.sizes
    assert sum(size for name, size in sizes.items() if name.startswith("caches.")) == 6 * 64 * token
    assert any("KV cache 0.2 MB" in message for message in caplog.messages)
    with pytest.raises(TrtcError, match=r"has 5 pages of 64 tokens, 5 of them free, but 6 more are needed"):
        tokens(engine, (65, 65, 65))
    assert tokens(engine, (1, 1)) == [greedy(prompt(1))] * 2, "it goes on after a batch that it has not held"


def test_a_pool_is_for_engines_with_pages(opened: Opener) -> None:
    with pytest.raises(TrtcError, match=r"kv_cache_tokens is 64, but the caches of .* have no pages\n.*--paged-kv-cache"):
        opened(paged=False, kv_cache_tokens=64)


def late(patch: pytest.MonkeyPatch) -> None:
    """Give pages one token too late."""
    hold = PageTable.hold
    patch.setattr(PageTable, "hold", lambda table, lengths: hold(table, lengths - 1))


def stale(patch: pytest.MonkeyPatch) -> None:
    """Upload the table of a batch's first run for all of them."""
    tell = GPUSession._tell   # pyright: ignore[reportPrivateUsage]

    def told(self: Any, slot: Any, sizes: Any, ids: Any, lengths: Any, past: Any) -> None:
        hold = PageTable.hold
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(PageTable, "hold", lambda table, want: None if past.any() else hold(table, want))
            tell(self, slot, sizes, ids, lengths, past)

    patch.setattr(GPUSession, "_tell", told)


@pytest.mark.parametrize("plant", [late, stale])
def test_a_wrong_table_is_seen(opened: Opener, monkeypatch: pytest.MonkeyPatch, plant: Any) -> None:
    want = logits(opened(), (64, 63, 1))
    plant(monkeypatch)
    assert not np.allclose(logits(opened(), (64, 63, 1)), want, rtol=0, atol=1e-3)
