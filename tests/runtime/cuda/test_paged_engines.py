"""Engines with a paged cache give what those with a linear one and transformers give, whatever ends at a page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emulated_cuda import compile_emulated, install
from fake_cuda import FakeDriver
from models import KNOWN, checkpoint, engine_logits, fresh_reference, load, torch

import trtc
from trtc.errors import TrtcError
from trtc.runtime.generate import Engine
from trtc.runtime.gpu.pages import PageTable
from trtc.runtime.session import Ints

LIMITS = {"max_batch_size": 4, "max_input_len": 140, "max_seq_len": 150}
MODEL, NEW = "mha", 3
Opener = Callable[..., Engine]
Hold = Callable[[PageTable, Ints], None]


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


def session_of(engine: Engine) -> Any:
    return engine._session   # pyright: ignore[reportPrivateUsage]


def logits(engine: Engine, lengths: tuple[int, ...]) -> Any:
    """Logits [call, sequence, word] of a prefill and two steps by fixed tokens."""
    session = session_of(engine)
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
    for lengths in ((65, 1, 64), (130,)):
        assert tokens(engine, lengths) == [greedy(prompt(n)) for n in lengths]
    assert driver.calls.count("cuStreamBeginCapture") == 2, "a graph for each batch size, whatever the lengths"
    assert driver.calls.count("cuMemcpy3DAsync") == 0, "growth copies nothing"


def test_logits_in_16_bits_are_those_of_transformers_and_of_a_linear_cache_bit_by_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the tensor cores' kernels; steps that follow lead the second sequence over the border."""
    name, found = "llama3-head64-old", list[Any]()
    case = replace(KNOWN[name], lengths=(65, 62))
    for paged in (True, False):
        folder = tmp_path / str(paged)
        bundle = compile_emulated(monkeypatch, checkpoint(name), folder, "float16", paged_kv_cache=paged, **LIMITS)
        install(monkeypatch)
        found.append(engine_logits(bundle, case))
    np.testing.assert_array_equal(*found)
    np.testing.assert_allclose(found[0], fresh_reference(checkpoint(name), case, "float16"), atol=2e-2)


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
    sizes: dict[str, int] = session_of(engine)._buffers.arena.plan.sizes
    assert sum(size for name, size in sizes.items() if name.startswith("caches.")) == 6 * 64 * token
    assert any("KV cache 0.2 MB" in message for message in caplog.messages)
    with pytest.raises(TrtcError, match=r"has 5 pages of 64 tokens, 5 of them free, but 6 more are needed"):
        tokens(engine, (65, 65, 65))
    assert tokens(engine, (1, 1)) == [greedy(prompt(1))] * 2, "it goes on after a batch that it has not held"


def test_a_pool_is_for_engines_with_pages(opened: Opener) -> None:
    with pytest.raises(TrtcError, match=r"kv_cache_tokens is 64, but the caches of .* have no pages\n.*--paged-kv-c"):
        opened(paged=False, kv_cache_tokens=64)


def late(hold: Hold) -> Hold:
    """Pages are given one token too late."""
    return lambda table, lengths: hold(table, lengths - 1)


def stale(hold: Hold) -> Hold:
    """The pages of a batch's first run are those of all runs."""
    return lambda table, lengths: None if table.array.any() else hold(table, lengths)


def test_a_wrong_table_is_seen(opened: Opener) -> None:
    want = logits(opened(), (64, 63))
    for plant in (late, stale):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PageTable, "hold", plant(PageTable.hold))
            assert not np.allclose(logits(opened(), (64, 63)), want, rtol=0, atol=1e-3), plant.__doc__
