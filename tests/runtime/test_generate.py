"""Generation: against models whose text is known."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade import Tiny

import trtc
from trtc.errors import TrtcError
from trtc.runtime.generate import Completion

Script = Callable[..., Path]
PROMPTS = [[1, 2, 3], [4], [31, 0, 5, 9, 9, 2, 7], [8, 8]]


def message(error: pytest.ExceptionInfo[TrtcError], path: Path | None = None) -> str:
    return str(error.value).replace(str(path), "ENGINE")


@pytest.mark.parametrize("prompts", [PROMPTS[:1], PROMPTS, PROMPTS * 2 + PROMPTS[:1]], ids=["one", "ragged", "batches"])
def test_greedy_tokens_are_those_of_the_model_without_a_cache(tiny: Tiny, prompts: list[list[int]]) -> None:
    completions = trtc.load(tiny.path).generate(prompts, max_new_tokens=20, logprobs=True)
    for prompt, got in zip(prompts, completions, strict=True):
        assert got.prompt_token_ids == prompt
        assert got.token_ids == tiny.greedy(prompt, 20)
        assert (got.finish_reason, got.prompt, got.text) == ("length", None, "")
        logits = [tiny.logits(prompt + got.token_ids[:n]) for n in range(20)]
        want = [x[t] - np.logaddexp.reduce(x) for x, t in zip(logits, got.token_ids, strict=True)]
        np.testing.assert_allclose(got.logprobs or [], want, atol=1e-5)   # f32 dot products of 32 terms


def test_a_prompt_gets_the_same_samples_alone_as_with_mates(tiny: Tiny) -> None:
    engine = trtc.load(tiny.path)
    options: Any = {"max_new_tokens": 15, "temperature": 1.3, "top_k": 12, "top_p": 0.9, "seed": 5}
    together = engine.generate(PROMPTS, **options)
    assert engine.generate(PROMPTS, **options) == together
    assert engine.generate(PROMPTS[:1], **options) == together[:1]
    assert engine.generate([PROMPTS[0], *PROMPTS[2:]], **options)[0] == together[0]
    options["seed"] = 6
    assert engine.generate(PROMPTS, **options) != together


def test_generation_fills_the_cache_and_no_more(tiny: Tiny) -> None:
    (got,) = trtc.load(tiny.path).generate([PROMPTS[2]], max_new_tokens=1000)
    assert (len(got.token_ids), got.finish_reason) == (48 - len(PROMPTS[2]), "length")
    assert got.token_ids == tiny.greedy(PROMPTS[2], 41)


def test_sequences_that_ended_do_not_disturb_others(tiny: Tiny) -> None:
    ends = tiny.greedy(PROMPTS[0], 3)[-1]
    completions = trtc.load(tiny.path).generate(PROMPTS, max_new_tokens=20, stop_token_ids=[ends])
    for prompt, got in zip(PROMPTS, completions, strict=True):
        want = tiny.greedy(prompt, 20)
        assert got.token_ids == (want[: want.index(ends) + 1] if ends in want else want)
        assert got.finish_reason == ("stop" if ends in want else "length")


def test_text_is_what_follows_the_prompt(script: Script) -> None:
    (got,) = trtc.load(script("Hello, wörld! 你好 😀.")).generate("Hel", max_new_tokens=100, stop_token_ids=[ord(".")])
    assert (got.prompt, got.text, got.finish_reason) == ("Hel", "lo, wörld! 你好 😀", "stop")
    assert bytes(got.token_ids).decode() == "lo, wörld! 你好 😀."


def test_the_models_eos_token_ends_it(script: Script) -> None:
    (got,) = trtc.load(script([*b"abcd", 257, *b"efg"])).generate(["a"])
    assert (got.text, got.token_ids, got.finish_reason) == ("bcd", [*b"bcd", 257], "stop")


@pytest.mark.parametrize(
    ("stop", "text", "tokens"),
    [
        (["wor"], "lo ", 6),
        (["lo w", "o wo"], "", 4),
        ("world!", "lo ", 9),
        (["llo"], "lo world! You", 13),
        (["u Z"], "lo world! You", 13),
    ],
)
def test_stop_strings_are_found_across_tokens_in_new_text_only(
    script: Script, stop: Any, text: str, tokens: int
) -> None:
    (got,) = trtc.load(script("Hello world! You and I")).generate(["Hel"], max_new_tokens=13, stop=stop)
    assert (got.text, len(got.token_ids)) == (text, tokens)
    assert got.finish_reason == ("stop" if tokens < 13 else "length")


def test_a_stop_string_in_what_the_end_lets_go_of_still_stops(script: Script) -> None:
    engine = trtc.load(script([*b"ab", 0xE4, 0xBD]))
    (got,) = engine.generate(["a"], max_new_tokens=3, stop=["\N{REPLACEMENT CHARACTER}"])
    assert (got.text, got.finish_reason) == ("b", "stop")


def test_log_probability_of_a_known_distribution(script: Script) -> None:
    (got,) = trtc.load(script("abc")).generate(["a"], max_new_tokens=2, logprobs=True)
    want = 10 - math.log(math.exp(10) + 257)
    np.testing.assert_allclose(got.logprobs or [], [want, want], rtol=1e-6)   # logits are exact in f32


def test_stream_gives_the_pieces_of_generate(script: Script) -> None:
    engine = trtc.load(script("Hello, 你好, world"))
    prompts = ["He", "Hello, ", "H"]
    events = list(engine.stream(prompts, max_new_tokens=9, stop=[", w"], logprobs=True))
    assert [e.index for e in events[:6]] == [0, 1, 2, 0, 1, 2]   # step by step, in the batch's order
    joined = [Completion(p, engine.encode(p)) for p in prompts]
    for event in events:
        joined[event.index].append(event)
    assert joined == engine.generate(prompts, max_new_tokens=9, stop=[", w"], logprobs=True)
    assert joined[1].text == "你好"
    assert not any("\N{REPLACEMENT CHARACTER}" in e.text for e in events if not e.finish_reason)


def test_one_stream_at_a_time(script: Script) -> None:
    engine = trtc.load(script("Hello"))
    stream = engine.stream(["H"])
    next(stream)
    with pytest.raises(TrtcError) as error:
        engine.generate(["H"])
    assert message(error) == (
        "error: the engine is generating already, but has one set of caches\n"
        "  = help: finish or close the other stream, or load the engine twice"
    )
    stream.close()   # type: ignore[attr-defined]
    assert engine.generate(["H"], max_new_tokens=4)[0].text == "ello"


def test_an_empty_text_is_the_bos_token_where_there_is_one(script: Script) -> None:
    generation: Any = {"bos_token_id": 256, "eos_token_ids": [], "pad_token_id": None}
    (got,) = trtc.load(script("Hello", generation=generation)).generate([""], max_new_tokens=4)
    assert (got.prompt_token_ids, got.text) == ([256], "ello")


@pytest.mark.parametrize("pad", [258, 10**30])
def test_a_token_that_pads_but_has_no_row_in_the_embedding(script: Script, pad: int) -> None:
    generation: Any = {"bos_token_id": 256, "eos_token_ids": [], "pad_token_id": pad}
    got = trtc.load(script("Hello", generation=generation)).generate(["H", "Hel"], max_new_tokens=2)
    assert [one.text for one in got] == ["el", "lo"]


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("", "error: the prompt is empty, but the model needs at least one token to begin with"),
        ([], "error: the prompt is empty, but the model needs at least one token to begin with"),
        ([3, 258], "error: the prompt has token 258, but the model's vocabulary is 0..257"),
        ([-1], "error: the prompt has token -1, but the model's vocabulary is 0..257"),
        (7, "error: a prompt is 7, but must be a text or a list of token ids"),
        (
            "a" * 17,
            "error: the prompt has 17 tokens, but the engine takes at most 16\n"
            "  = help: compile with --max-input-len 17 or more",
        ),
    ],
)
def test_bad_prompts(script: Script, prompt: Any, text: str) -> None:
    with pytest.raises(TrtcError) as error:
        trtc.load(script("Hello")).stream(["H", prompt])   # before the first token is asked for
    assert message(error) == text


def test_a_prompt_that_leaves_no_room(script: Script) -> None:
    limits = {"max_batch_size": 4, "max_input_len": 16, "max_seq_len": 16}
    with pytest.raises(TrtcError) as error:
        trtc.load(script("Hello", limits=limits)).generate(["a" * 16])
    assert message(error) == (
        "error: the prompt has 16 tokens, but the engine holds 16 of prompt and text together\n"
        "  = help: compile with --max-seq-len 17 or more"
    )


def test_text_needs_a_tokenizer(tiny: Tiny) -> None:
    with pytest.raises(TrtcError) as error:
        trtc.load(tiny.path).generate(["Hello"])
    assert message(error, tiny.path) == (
        "error: the prompt is a text, but ENGINE has no tokenizer\n"
        "  = help: give token ids instead (--prompt-ids)"
    )
    with pytest.raises(TrtcError) as error:
        trtc.load(tiny.path).generate([[1]], stop=["x"])
    assert message(error, tiny.path) == (
        "error: stop strings need a tokenizer, but ENGINE has none\n  = help: give stop token ids instead"
    )


def test_chat_needs_a_template(script: Script) -> None:
    path = script("Hello")
    with pytest.raises(TrtcError) as error:
        trtc.load(path).encode_chat([{"role": "user", "content": "Hi"}])
    assert message(error, path) == "error: messages need a chat template, but ENGINE has none"


def test_threads_must_be_positive(tiny: Tiny) -> None:
    with pytest.raises(TrtcError) as error:
        trtc.load(tiny.path, threads=0)
    assert message(error) == "error: threads is 0, but must be at least 1"
    assert trtc.load(tiny.path, threads=1).generate([[1]], max_new_tokens=3)[0].token_ids == tiny.greedy([1], 3)


def test_logits_that_are_not_numbers_are_an_error(script: Script) -> None:
    path = script("Hello")
    engine = trtc.load(path)
    forward = engine._session.forward   # pyright: ignore[reportPrivateUsage]
    engine._session.forward = lambda *a: forward(*a) * np.float32("nan")   # type: ignore[method-assign]
    with pytest.raises(TrtcError) as error:
        engine.generate(["H"])
    assert message(error) == (
        "error: the engine computed a logit of nan, but logits must be finite\n"
        "  = help: compile with --dtype bfloat16 or float32"
    )


def test_the_runtime_imports_no_compiler_and_no_torch(tiny: Tiny) -> None:
    code = (
        "import sys, trtc\n"
        f"trtc.load({str(tiny.path)!r}).generate([[1, 2]], max_new_tokens=2)\n"
        "others = 'trtc.ir trtc.passes trtc.frontend trtc.backend trtc.cli torch transformers onnx'\n"
        "print([m for m in others.split() if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
