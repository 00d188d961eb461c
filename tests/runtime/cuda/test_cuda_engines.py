"""Engines of target cuda give transformers' logits: run by the real runtime over stand-ins for driver and cuBLASLt."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emulated_cuda import compile_emulated, install
from fake_cuda import FakeDriver
from models import CASES, LIMITS, checkpoint, engine_logits, load, reference, torch

import trtc
from trtc.runtime.bundle import Limits
from trtc.runtime.cuda import products
from trtc.runtime.generate import Engine

TOLERANCE = {"float32": 2e-5, "float16": 2e-2, "bfloat16": 0.15}   # of logits of up to 2
TOGETHER = pytest.mark.xdist_group("llama3-head64-old")   # most of its kernels are built once
PROMPTS = [[5, 80, 3, 44, 91, 17, 60], [7], [33, 2, 9, 71]]
Opener = Callable[..., Engine]


@pytest.mark.parametrize(("name", "dtype", "target", "capability"), [
    ("gqa-tied-head16", "bfloat16", "cuda:90", (9, 0)), ("yarn", "bfloat16", "cuda:90", (9, 0)),
    pytest.param("llama3-head64-old", "float16", "cuda:80,90", (9, 0), marks=TOGETHER),
    pytest.param("llama3-head64-old", "float16", "cuda:80,90", (8, 0), marks=TOGETHER),
])   # fmt: skip
def test_logits_are_those_of_transformers(
    name: str, dtype: str, target: str, capability: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, model = CASES[name], checkpoint(name)
    bundle = compile_emulated(monkeypatch, model, tmp_path / "engine", dtype, target=target, **LIMITS)
    install(monkeypatch, FakeDriver(capability=capability))
    want = np.stack(reference(model, case, dtype))
    np.testing.assert_allclose(engine_logits(bundle, case), want, atol=TOLERANCE[dtype])


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Opener:
    """Loads the engine of a model in f32, which the module's tests share."""
    folder = tmp_path_factory.getbasetemp() / "cuda-engine"
    if not folder.exists():
        compile_emulated(monkeypatch, checkpoint("mha"), folder, "float32", **LIMITS)

    def load(driver: FakeDriver | None = None, **options: Any) -> Engine:
        install(monkeypatch, driver)
        return trtc.load(folder, **options)

    return load


def greedy(prompt: list[int], count: int) -> list[int]:
    """What transformers continues a prompt with."""
    model, ids = load(checkpoint("mha")), list(prompt)
    for _ in range(count):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def tokens(engine: Engine, prompts: list[list[int]], count: int) -> list[list[int]]:
    """What an engine continues prompts with; no token ends a text."""
    logits = [c.token_ids for c in engine.generate(prompts, max_new_tokens=count)]
    ends = [ids.index(2) + 1 if 2 in ids else count for ids in logits]
    assert [len(ids) for ids in logits] == ends
    return logits


def cut(ids: list[int]) -> list[int]:
    """Up to the stop token."""
    return ids[: ids.index(2) + 1] if 2 in ids else ids


def test_greedy_tokens_are_those_of_transformers(opened: Opener) -> None:
    driver = FakeDriver()
    engine = opened(driver)
    assert tokens(engine, PROMPTS, 8) == [cut(greedy(prompt, 8)) for prompt in PROMPTS]
    assert driver.calls.count("cuStreamBeginCapture") == 1 and driver.calls.count("cuGraphLaunch") >= 5
    overlaps = [c.numAttrs for c in driver.launches]
    assert overlaps.count(0) == 3, "all but the first of a run: of prefill, of a step that is told, of one recorded"


@pytest.mark.parametrize("options", [{"prefill_chunk": 3}, {"cuda_graphs": False}], ids=["chunks", "no graphs"])
def test_chunks_and_steps_without_graphs_give_the_same(opened: Opener, options: Any) -> None:
    assert tokens(opened(**options), PROMPTS, 4) == tokens(opened(), PROMPTS, 4)


def test_capacities_are_rounded_up_by_a_quarter_at_most(opened: Opener) -> None:
    session: Any = opened()._session   # pyright: ignore[reportPrivateUsage]
    session._limits = Limits(4, 40, 3000)
    rounded = {wanted: session._capacities(wanted)[0] for wanted in range(1, 3001)}
    assert all(wanted <= capacity <= wanted * 5 // 4 + 64 for wanted, capacity in rounded.items())
    assert rounded[1152] == 1280 and max(rounded.values()) == 3000 and len(set(rounded.values())) < 20


def test_graphs_of_several_batch_sizes_are_kept(opened: Opener) -> None:
    driver = FakeDriver()
    engine = opened(driver)
    wanted = [cut(greedy(prompt, 3)) for prompt in PROMPTS]
    for count in (3, 1, 2, 1, 3):   # the largest first, so that all fit its memory
        assert tokens(engine, PROMPTS[:count], 3) == wanted[:count]
    assert driver.calls.count("cuStreamBeginCapture") == 3
    assert "cuMemcpy3DAsync" not in driver.calls, "caches are updated in place"


def test_algorithms_are_timed_once_and_change_nothing(
    opened: Opener, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    want = tokens(opened(), PROMPTS, 8)
    shutil.copytree(tmp_path.parent / "cuda-engine", tmp_path / "engine")
    monkeypatch.setattr(products, "TIMED", 0)
    timed = list[int]()
    for _ in range(2):
        driver = install(monkeypatch, algorithms=3, times=[0.2, 0.3, 0.1])
        assert tokens(trtc.load(tmp_path / "engine"), PROMPTS, 8) == want
        timed.append(driver.calls.count("cuEventElapsedTime"))
    assert timed[0] > 0 == timed[1]
    assert (tmp_path / "engine/rank0/fake-gpu.cublaslt.json").exists()
