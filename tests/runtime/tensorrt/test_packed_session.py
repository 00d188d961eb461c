"""Plans that take packed tokens give the text of ONNX Runtime, and run no padding but one token a row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeDriver
from fake_tensorrt import FakeModule, compile_plan, install

import trtc
from trtc.backend.tensorrt.options import Options
from trtc.runtime.generate import Engine

MODEL = Path(__file__).parents[3] / "examples" / "shakespeare"
PROMPTS = ["First Citizen:\nBefore we proceed any further, hear me", "ROMEO:", "My lord, I have a thing", "\n"]
LIMITS: dict[str, Any] = {"dtype": "float32", "max_batch_size": 4, "max_input_len": 64, "max_seq_len": 128}
Opener = Callable[..., tuple[Engine, FakeModule]]


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    trtc.compile(MODEL, out := tmp_path_factory.mktemp("onnx") / "engine", target="onnx", **LIMITS)
    return trtc.load(out)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Opener:
    """Loads a packed plan, with a stand-in of its TensorRT."""

    def load(most: int = 0, all_logits: bool = False, driver: FakeDriver | None = None, **how: Any) -> Any:
        options = Options(packed=True, max_num_tokens=most)
        compile_plan(monkeypatch, MODEL, tmp_path, "tensorrt:11.4", tensorrt=options, all_logits=all_logits, **LIMITS)
        driver = driver or FakeDriver()
        module = FakeModule(driver, trtc.EngineBundle.open(tmp_path).target.version, old=False)
        install(monkeypatch, driver, {"tensorrt": module})
        return trtc.load(tmp_path, **how), module

    return load


@pytest.mark.parametrize("count", [1, 3, 4])
def test_greedy_text_of_a_ragged_batch(onnx: Engine, opened: Opener, count: int) -> None:
    engine, module = opened()
    prompts = PROMPTS[:count]
    assert engine.generate(prompts, max_new_tokens=16) == onnx.generate(prompts, max_new_tokens=16)
    rows = 1 << (count - 1).bit_length()
    tokens = sum(len(engine.encode(p)) for p in prompts)
    assert [r["T"] for r in module.runs] == [tokens + rows - count] + [rows] * 15   # a row beyond the batch has one
    assert [r["profile"] for r in module.runs] == [0] + [1] * 15


@pytest.mark.parametrize("how", [{"most": 12}, {"prefill_chunk": 5}, {"most": 4}], ids=str)
def test_prompts_in_chunks(onnx: Engine, opened: Opener, how: Any) -> None:
    engine, module = opened(**how)
    assert engine.generate(PROMPTS, max_new_tokens=6) == onnx.generate(PROMPTS, max_new_tokens=6)
    assert max(r["T"] for r in module.runs) <= how.get("most", 4 * 5)


def test_a_call_takes_as_many_tokens_as_the_plan_does(opened: Opener) -> None:
    """One long prompt beside short ones is not cut where padding would exceed the limit."""
    engine, module = opened(most=48)
    prompts = [list(range(2, 42)), [3], [4], [5]]
    engine.generate(prompts, max_new_tokens=2)
    assert [r["T"] for r in module.runs] == [43, 4]


def test_logits_of_every_token(onnx: Engine, opened: Opener) -> None:
    engine, _ = opened(all_logits=True)
    assert engine.generate(PROMPTS, max_new_tokens=8) == onnx.generate(PROMPTS, max_new_tokens=8)


@pytest.mark.parametrize("sampling", [{"temperature": 1.3, "top_k": 12, "seed": 3}, {"logprobs": True}], ids=str)
def test_samples(onnx: Engine, opened: Opener, sampling: Any) -> None:
    engine, _ = opened()
    got, want = (e.generate(PROMPTS, max_new_tokens=8, **sampling) for e in (engine, onnx))
    assert [c.token_ids for c in got] == [c.token_ids for c in want]


def test_sequences_end_while_others_go_on(onnx: Engine, opened: Opener) -> None:
    engine, _ = opened()
    stops = [onnx.generate(PROMPTS, max_new_tokens=12)[0].token_ids[4]]
    want = onnx.generate(PROMPTS, max_new_tokens=12, stop_token_ids=stops)
    assert {c.finish_reason for c in want} == {"stop", "length"}
    assert engine.generate(PROMPTS, max_new_tokens=12, stop_token_ids=stops) == want


def test_text_fills_the_caches_to_the_last_row(onnx: Engine, opened: Opener) -> None:
    engine, _ = opened()
    assert engine.generate(PROMPTS[:2], max_new_tokens=500) == onnx.generate(PROMPTS[:2], max_new_tokens=500)


def test_decode_steps_are_recorded_and_copy_no_caches(opened: Opener) -> None:
    driver = FakeDriver()
    engine, _ = opened(driver=driver)
    engine.generate(PROMPTS[:3], max_new_tokens=20)
    assert driver.calls.count("cuGraphLaunch") == 18 and driver.calls.count("cuStreamBeginCapture") == 1
    assert "cuMemcpy3DAsync" not in driver.calls


def test_the_session_protocol_holds(onnx: Engine, opened: Opener) -> None:
    """`forward` and `decode_step`: a ragged prefill, then a step with the caller's tokens."""
    random, lengths = np.random.default_rng(0), np.array([9, 3, 6], np.int32)
    ids = random.integers(2, 1000, (3, 11)).astype(np.int32)   # the last two are padding of all
    logits: list[list[np.ndarray[Any, Any]]] = []
    for engine in (onnx, opened(prefill_chunk=4)[0]):
        session = engine._session   # pyright: ignore[reportPrivateUsage]
        session.start(3, 64)
        logits.append([session.forward(ids, lengths, np.zeros_like(lengths)).copy()])
        step = session.decode_step()
        step.input_ids[...], step.past_lengths[...] = ids[:, :1], lengths
        logits[-1].append(step.run().copy())
    for want, got in zip(*logits, strict=True):
        np.testing.assert_allclose(got, want, atol=2e-4)   # f32 logits of about 10, summed in another order
