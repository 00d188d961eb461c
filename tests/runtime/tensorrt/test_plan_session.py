"""Plans on a GPU give the text of ONNX Runtime: over stand-ins for the GPU and for TensorRT, which uses NumPy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeDriver
from fake_tensorrt import FakeModule, compile_plan, install

import trtc
from trtc.errors import TrtcError
from trtc.runtime.generate import Engine

MODEL = Path(__file__).parents[3] / "examples" / "shakespeare"
PROMPTS = ["First Citizen:\nBefore we proceed", "ROMEO:", "My lord, I have a thing to say to you, and", "\n"]
LIMITS: dict[str, Any] = {"dtype": "float32", "max_batch_size": 4, "max_input_len": 64, "max_seq_len": 256}
Opener = Callable[..., tuple[Engine, FakeModule]]


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    trtc.compile(MODEL, out := tmp_path_factory.mktemp("onnx") / "engine", target="onnx", **LIMITS)
    return trtc.load(out)


@pytest.fixture
def plans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "plans"   # shared by the module's tests


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, plans: Path) -> Opener:
    """Loads a plan for a target, with a stand-in of its TensorRT."""

    def load(
        target: str = "tensorrt:8.6", driver: FakeDriver | None = None, **options: Any
    ) -> tuple[Engine, FakeModule]:
        folder = plans / target.replace(":", "-")
        if not folder.exists():
            compile_plan(monkeypatch, MODEL, folder, target, **LIMITS)
        driver = driver or FakeDriver()
        version = trtc.EngineBundle.open(folder).target.version
        module = FakeModule(driver, version, old=target == "tensorrt:8.6", **options.pop("module", {}))
        install(monkeypatch, driver, {"tensorrt_rtx_bindings" if "rtx" in target else "tensorrt": module})
        return trtc.load(folder, **options), module

    return load


TARGETS = ["tensorrt:8.6", "tensorrt:11.4", "tensorrt-rtx:1.7"]


@pytest.mark.parametrize("target", TARGETS)
def test_greedy_text_of_a_ragged_batch_is_that_of_onnx_runtime(onnx: Engine, opened: Opener, target: str) -> None:
    engine, module = opened(target)
    assert engine.generate(PROMPTS, max_new_tokens=24) == onnx.generate(PROMPTS, max_new_tokens=24)
    assert {r["B"] for r in module.runs} == {4}
    assert [r["profile"] for r in module.runs] == [0] + [1] * 23


@pytest.mark.parametrize("target", TARGETS)
def test_prompts_in_chunks_give_the_same(onnx: Engine, opened: Opener, target: str) -> None:
    engine, module = opened(target, prefill_chunk=5)
    assert engine.generate(PROMPTS, max_new_tokens=8) == onnx.generate(PROMPTS, max_new_tokens=8)
    assert max(r["S"] for r in module.runs) == 5 and len([r for r in module.runs if r["S"] > 1]) > 1


@pytest.mark.parametrize("target", TARGETS[:2])
@pytest.mark.parametrize("options", [{"cuda_graphs": False}, {"module": {"capturable": False}}], ids=["off", "refused"])
def test_steps_without_a_graph_give_the_same(onnx: Engine, opened: Opener, target: str, options: Any) -> None:
    engine, _ = opened(target, **options)
    assert engine.generate(PROMPTS[:1], max_new_tokens=8) == onnx.generate(PROMPTS[:1], max_new_tokens=8)


def test_a_graph_is_replayed_for_each_step_but_the_first_of_each_size(opened: Opener) -> None:
    driver = FakeDriver()
    engine, _ = opened(driver=driver)
    engine.generate(PROMPTS[:3], max_new_tokens=20)
    assert driver.calls.count("cuGraphLaunch") == 18   # 20 tokens: one by the prefill, one by the step that is told
    assert driver.calls.count("cuStreamBeginCapture") == 1


@pytest.mark.parametrize(("target", "recorded"), [("tensorrt:8.6", 3), ("tensorrt:11.4", 2)])
def test_graphs_of_several_batch_sizes_are_kept_where_contexts_may_share_a_profile(
    onnx: Engine, opened: Opener, target: str, recorded: int
) -> None:
    driver = FakeDriver()
    engine, _ = opened(target, driver)
    engine.generate(PROMPTS[:2], max_new_tokens=2)   # the largest first, so that all fit its memory
    driver.calls.clear()
    for count in (1, 2, 1):
        prompts = PROMPTS[:count]
        assert engine.generate(prompts, max_new_tokens=5) == onnx.generate(prompts, max_new_tokens=5)
    assert driver.calls.count("cuStreamBeginCapture") == recorded


def test_caches_grow_with_the_text_and_only_then(onnx: Engine, opened: Opener) -> None:
    """A text of 9 to 200 tokens goes through caches of 64, 128 and 256; nothing but new rows is copied otherwise."""
    driver = FakeDriver()
    engine, module = opened(driver=driver)
    prompts = [PROMPTS[1], PROMPTS[0]]
    assert engine.generate(prompts, max_new_tokens=190) == onnx.generate(prompts, max_new_tokens=190)
    sizes = [r["M"] for r in module.runs]
    assert sizes == sorted(sizes) and set(sizes) == {64, 128, 256}
    row = 2 * 7 * 2 * 32 * 4   # bytes of one token of a sequence: keys and values, layers, heads, head size, f32
    fed = 2 * 4 * 190
    assert driver.copied <= 2 * row * (64 + 128) + 2 * row * (190 + 20) + fed + (1 << 20)


@pytest.mark.parametrize("target", TARGETS[1:])
def test_caches_that_are_updated_in_place_are_never_copied(opened: Opener, target: str) -> None:
    driver = FakeDriver()
    engine, module = opened(target, driver)
    engine.generate(PROMPTS, max_new_tokens=10)
    assert {r["M"] for r in module.runs} == {256}
    assert "cuMemcpy3DAsync" not in driver.calls


def test_batches_are_rounded_up_to_a_power_of_two(onnx: Engine, opened: Opener) -> None:
    engine, module = opened()
    assert engine.generate(PROMPTS[:3], max_new_tokens=6) == onnx.generate(PROMPTS[:3], max_new_tokens=6)
    assert engine.generate(PROMPTS[:1], max_new_tokens=6) == onnx.generate(PROMPTS[:1], max_new_tokens=6)
    assert [r["B"] for r in module.runs] == [4] * 6 + [1] * 6


SAMPLINGS: list[dict[str, Any]] = [
    {"temperature": 1.3, "top_k": 12, "seed": 3},
    {"temperature": 0.8, "top_k": 40, "top_p": 0.9},
    {"temperature": 1.0, "top_k": 64},
    {"temperature": 1.0, "top_p": 0.7},
    {"repetition_penalty": 1.3},
    {"logprobs": True},
    {"check_numerics": True},
]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_samples_are_those_of_onnx_runtime(onnx: Engine, opened: Opener, sampling: Any) -> None:
    engine, _ = opened()
    got, want = (e.generate(PROMPTS, max_new_tokens=12, **sampling) for e in (engine, onnx))
    assert [c.token_ids for c in got] == [c.token_ids for c in want]
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a.logprobs or [], b.logprobs or [], atol=1e-4)   # f32, summed in another order


def test_few_candidates_need_no_logits(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, _ = opened()
    monkeypatch.setattr(engine._session, "logits", None)   # pyright: ignore[reportPrivateUsage]
    assert len(engine.generate(PROMPTS, max_new_tokens=5, temperature=1.0, top_k=20)) == 4


def test_sequences_end_by_tokens_and_by_strings_while_others_go_on(onnx: Engine, opened: Opener) -> None:
    engine, _ = opened()
    usual = onnx.generate(PROMPTS, max_new_tokens=30)
    stops: dict[str, Any] = {"stop_token_ids": [usual[0].token_ids[4]], "stop": [usual[1].text[5:9]]}
    want = onnx.generate(PROMPTS, max_new_tokens=30, **stops)
    assert {c.finish_reason for c in want} == {"stop", "length"}
    assert engine.generate(PROMPTS, max_new_tokens=30, **stops) == want
    assert list(engine.stream(PROMPTS, max_new_tokens=30, **stops)) == list(
        onnx.stream(PROMPTS, max_new_tokens=30, **stops)
    )


@pytest.mark.parametrize("target", TARGETS[:2])
def test_text_fills_the_caches_to_the_last_row(onnx: Engine, opened: Opener, target: str) -> None:
    engine, _ = opened(target)
    prompts = ["ROMEO: " * 8, "\n"]
    assert engine.generate(prompts, max_new_tokens=1000) == onnx.generate(prompts, max_new_tokens=1000)


def test_what_a_batch_left_in_the_caches_is_gone_for_the_next(opened: Opener) -> None:
    engine, module = opened()
    want = engine.generate(PROMPTS, max_new_tokens=6)
    module.broken = "logits"
    with pytest.raises(TrtcError):
        engine.generate(PROMPTS, max_new_tokens=6)
    module.broken = ""
    assert engine.generate(PROMPTS, max_new_tokens=6) == want


def test_the_session_protocol_holds(onnx: Engine, opened: Opener) -> None:
    """`forward` and `decode_step` give ONNX Runtime's logits: a ragged prefill, then steps with the caller's tokens."""
    random, lengths = np.random.default_rng(0), np.array([9, 3, 6], np.int32)
    ids = random.integers(2, 1000, (3, 9)).astype(np.int32)
    logits: list[list[np.ndarray[Any, Any]]] = []
    for engine in (onnx, opened(prefill_chunk=4)[0]):
        session = engine._session   # pyright: ignore[reportPrivateUsage]
        session.start(3, 64)
        logits.append([session.forward(ids, lengths, np.zeros_like(lengths)).copy()])
        step = session.decode_step()
        for number in range(2):
            step.input_ids[...], step.past_lengths[...] = ids[:, number : number + 1], lengths + number
            logits[-1].append(step.run().copy())
    for want, got in zip(*logits, strict=True):
        np.testing.assert_allclose(got, want, atol=2e-4)   # f32 logits of about 10, summed in another order
