"""Emitted networks of whole models mean what the model's graph means: prefill, then step by step, in ragged batches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from trtc.frontend.config import DecoderConfig, RopeConfig
from trtc.ir import Array, DType, bf16, f16

pytest.importorskip("tensorrt_rtx_bindings")

from tensorrt_evaluator import network_of
from tensorrt_models import BASE, LOWER, caches, model, step

CONFIGS = {
    "grouped heads": BASE,
    "interleaved pairs, gelu": replace(BASE, rope=replace(BASE.rope, interleaved=True), hidden_act="gelu"),
    "part of a head turns": replace(BASE, rope=RopeConfig(10000.0, 8), hidden_act="gelu_pytorch_tanh"),
}
TOLERANCE = 2e-5   # both sides compute in f32 on the same narrow weights; logits are about 1


@pytest.mark.parametrize("dtype", [f16, bf16], ids=str)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_prefill_and_decode_of_a_ragged_batch_agree_with_the_graph(config: DecoderConfig, dtype: DType) -> None:
    made = model(config, dtype)
    network = network_of(made.lowered, made.tensors, rounds=False)
    random = np.random.default_rng(2)
    past, lengths = np.array([0, 0, 0]), np.array([9, 4, 1])
    theirs, ours = caches(made.plain, 3), caches(made.plain, 3)
    for call in range(5):
        ids = random.integers(0, config.vocab_size, (3, int(lengths.max())))
        want = made.plain.evaluate({**made.tensors, **step(ids, lengths, past), **theirs})
        got = network({**step(ids, lengths, past), **ours})
        np.testing.assert_allclose(got["logits"], want["logits"], rtol=0, atol=TOLERANCE, err_msg=f"call {call}")
        theirs, ours = {k: want[k] for k in theirs}, {k: got[f"{k}.next"] for k in ours}
        past, lengths = past + lengths, np.array([1, 1, 1]) if call else np.array([3, 1, 2])
    assert network.kinds() >= {"ATTENTION_OUTPUT", "KV_CACHE_UPDATE", "ROTARY_EMBEDDING"}


def test_steps_of_a_network_give_what_one_prefill_gives() -> None:
    made = model(BASE, f16)
    network = network_of(made.lowered, made.tensors, rounds=False)
    ids = np.random.default_rng(3).integers(0, BASE.vocab_size, (2, 8))
    whole = network({**step(ids, np.array([8, 8]), np.array([0, 0])), **caches(made.plain, 2)})["logits"]
    held: dict[str, Array] = caches(made.plain, 2)
    logits = whole
    for n in range(8):
        got = network({**step(ids[:, n : n + 1], np.array([1, 1]), np.array([n, n])), **held})
        logits, held = got["logits"], {k: got[f"{k}.next"] for k in held}
    np.testing.assert_allclose(logits, whole, rtol=0, atol=TOLERANCE)


def test_without_fusion_the_network_means_the_same() -> None:
    made = model(BASE, f16, LOWER.replace("fuse,", "canonicalize,"))
    network = network_of(made.lowered, made.tensors, rounds=False)
    feeds = {**step(np.array([[3, 1, 4], [1, 5, 0]]), np.array([3, 2]), np.array([0, 0])), **caches(made.plain, 2)}
    want = made.plain.evaluate({**made.tensors, **feeds})
    np.testing.assert_allclose(network(feeds)["logits"], want["logits"], rtol=0, atol=TOLERANCE)
    assert "ATTENTION_OUTPUT" not in network.kinds()
