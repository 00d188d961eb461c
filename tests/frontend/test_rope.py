"""Rotary frequencies are those of transformers, for every kind of scaling."""

from __future__ import annotations

import copy
import warnings
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtc.errors import TrtcError
from trtc.frontend.config import Keys, RopeConfig
from trtc.frontend.rope import angles, inverse_frequencies, read_rope
from trtc.ir.graph import Graph
from trtc.ir.ops import Input
from trtc.ir.types import bf16, f16, f32, i32

torch: Any = import_module("torch")
transformers: Any = import_module("transformers")
llama: Any = import_module("transformers.models.llama.modeling_llama")

number = st.floats(0.25, 64).map(lambda x: round(x, 3))
length = st.integers(4, 5000)
Drawn = st.SearchStrategy[dict[str, Any]]
PARAMETERS: dict[str, Drawn] = {
    "default": st.fixed_dictionaries({}),
    "linear": st.fixed_dictionaries({"factor": number}),
    "dynamic": st.fixed_dictionaries({"factor": st.floats(1, 16)}),
    "llama3": st.tuples(st.floats(1, 16), st.floats(0.25, 8), st.floats(1, 8), length).map(
        lambda n: {
            "factor": n[0],
            "low_freq_factor": n[1],
            "high_freq_factor": n[1] + n[2],
            "original_max_position_embeddings": n[3],
        }
    ),
    "yarn": st.fixed_dictionaries(
        {"factor": number},
        optional={
            "original_max_position_embeddings": length,
            "attention_factor": number,
            "truncate": st.booleans(),
            "beta_fast": number,
            "beta_slow": number,
            "mscale": number,
            "mscale_all_dim": number | st.just(0),
        },
    ),
}


def config_of(kind: str, theta: float, dim: int, positions: int, parameters: dict[str, Any]) -> dict[str, Any]:
    rope = {"rope_type": kind, "rope_theta": theta, **parameters}
    return {"head_dim": dim, "max_position_embeddings": positions, "rope_parameters": rope}


def reference(config: dict[str, Any]) -> Any:
    """transformers' rotary embedding of a config."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers.logging.set_verbosity_error()
        return llama.LlamaRotaryEmbedding(transformers.LlamaConfig(**copy.deepcopy(config)))


def ours(config: dict[str, Any]) -> RopeConfig:
    return read_rope(Keys(config, "config.json"), config["head_dim"], config["max_position_embeddings"])


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(PARAMETERS)).flatmap(lambda kind: st.tuples(st.just(kind), PARAMETERS[kind])),
    st.sampled_from([500.0, 10000.0, 500000.0]), st.sampled_from([4, 6, 16, 64, 128]), length,
)   # fmt: skip
def test_frequencies_and_their_factor(kind: tuple[str, dict[str, Any]], theta: float, dim: int, positions: int) -> None:
    config = config_of(kind[0], theta, dim, positions, kind[1])
    want = reference(config)
    got, factor = inverse_frequencies(ours(config))
    np.testing.assert_allclose(got, want.inv_freq.numpy(), rtol=2e-5, atol=1e-12)   # f32; llama3's blend cancels
    assert factor == pytest.approx(want.attention_scaling, rel=1e-12)


def evaluated(rope: RopeConfig, past: list[int], lengths: list[int], capacity: int, dtype: Any = f32) -> Any:
    """cos and sin of new tokens 0..S of each sequence."""
    places, totals = Input("positions", i32["B", "S"]), Input("totals", i32["B"])
    cos, sin = angles(rope, places, totals, capacity, dtype)
    graph = Graph("angles", (places, totals), {"cos": cos, "sin": sin}, {"B": (1, 9), "S": (1, 99)})
    positions = np.array([np.arange(max(lengths)) + p for p in past], np.int32)
    totals_ = np.array([p + n for p, n in zip(past, lengths, strict=True)], np.int32)
    return graph.evaluate({"positions": positions, "totals": totals_})


@settings(max_examples=50, deadline=None)
@given(
    st.integers(2, 32).flatmap(lambda n: st.tuples(*[st.lists(number, min_size=n, max_size=n)] * 2)), length, length,
    st.none() | number, st.none() | number,
)   # fmt: skip
def test_longrope(
    factors: tuple[list[float], list[float]], positions: int, old: int, factor: float | None, attention: float | None
) -> None:
    given = {"factor": factor, "attention_factor": attention}
    parameters = {
        "short_factor": factors[0], "long_factor": factors[1], "original_max_position_embeddings": old,
        **{key: value for key, value in given.items() if value is not None},
    }   # fmt: skip
    config = config_of("longrope", 10000.0, 2 * len(factors[0]), positions, parameters)
    for long in (False, True):
        want = reference(config)
        want(torch.zeros(1), torch.tensor([[old if long else old - 1]]))
        got, scale = inverse_frequencies(ours(config), long=long)
        np.testing.assert_allclose(got, want.inv_freq.numpy(), rtol=2e-6)
        assert scale == pytest.approx(want.attention_scaling, rel=1e-12)


BY_LENGTH = {
    "dynamic": {"factor": 3.0},
    "longrope": {
        "short_factor": [1 + n / 9 for n in range(8)], "long_factor": [2.0 + n for n in range(8)],
        "original_max_position_embeddings": 8, "factor": 5.0,
    },
}   # fmt: skip


@pytest.mark.parametrize("kind", BY_LENGTH)
@pytest.mark.parametrize("capacity", [8, 40])
def test_angles_depend_on_the_length_of_each_sequence_alone(capacity: int, kind: str) -> None:
    """Below, at and beyond what was trained, as transformers gives for a sequence by itself; f32 sines of 40."""
    config = config_of(kind, 10000.0, 16, 8, BY_LENGTH[kind])
    past, lengths = ([0, 0, 3, 7, 8, 30], [8, 3, 2, 1, 1, 5]) if capacity > 8 else ([0, 3, 6, 2], [2, 2, 2, 1])
    got = evaluated(ours(config), past, lengths, capacity)
    for row, (start, count) in enumerate(zip(past, lengths, strict=True)):
        places = torch.arange(start, start + count)[None]
        cos, sin = reference(config)(torch.zeros(1), places)
        for name, want in (("cos", cos), ("sin", sin)):
            np.testing.assert_allclose(got[name][row, :count], want[0, :, :8].numpy(), atol=2e-5)


@pytest.mark.parametrize("dtype", [f16, bf16])
def test_angles_are_rounded_once(dtype: Any) -> None:
    rope = ours(config_of("yarn", 10000.0, 16, 64, {"factor": 4.0, "original_max_position_embeddings": 16}))
    exact, got = (evaluated(rope, [20], [7], 64, d) for d in (f32, dtype))
    for name in ("cos", "sin"):
        np.testing.assert_array_equal(got[name], exact[name].astype(dtype.numpy))


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    ("config", "kind", "theta", "trained"),
    [
        ({}, "default", 10000.0, 64),
        ({"rope_theta": 5e5, "rope_scaling": None}, "default", 5e5, 64),
        ({"rope_scaling": {}, "rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}, "default", 7.0, 64),
        ({"rope_theta": 3.0, "rope_scaling": {"type": "linear", "factor": 2}}, "linear", 3.0, 64),
        ({"rope_theta": 3.0, "rope_parameters": {"rope_type": "linear", "factor": 2}}, "linear", 3.0, 64),
        ({"rope_scaling": LLAMA3, "rope_parameters": {"rope_theta": 3.0}}, "llama3", 10000.0, 64),
        ({"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 32}}, "llama3", 10000.0, 32),
        ({"rope_scaling": LLAMA3, "original_max_position_embeddings": 16}, "llama3", 10000.0, 16),
    ],
)
def test_where_the_keys_may_stand(config: dict[str, Any], kind: str, theta: float, trained: int) -> None:
    """In rope_scaling, rope_parameters or at the top, whichever transformers reads."""
    rope = ours({"head_dim": 8, "max_position_embeddings": 64, **config})
    assert (rope.kind, rope.theta) == (kind, theta)
    assert (rope.parameters or {})["original_max_position_embeddings"] == trained
    want = reference({"head_dim": 8, "max_position_embeddings": 64, **config})
    np.testing.assert_allclose(inverse_frequencies(rope)[0], want.inv_freq.numpy(), rtol=3e-6)


@pytest.mark.parametrize(
    ("rope", "dim", "message"),
    [
        ({"rope_type": "yarm"}, 8, (
            'rope_parameters.rope_type is "yarm", but must be one of default, linear, dynamic, llama3, yarn, longrope\n'
            "  = help: did you mean `yarn`?"
        )),
        ({"type": 3}, 8, "rope_parameters.type is 3, but must be a string"),
        ({"rope_type": "linear"}, 8, "rope_parameters.factor is missing"),
        ({"rope_type": "linear", "facter": 2}, 8, (
            "rope_parameters.factor is missing\n  = help: did you mean `facter`?"
        )),
        ({"rope_type": "linear", "factor": 0}, 8, "rope_parameters.factor is 0, but must be greater than 0"),
        ({"rope_type": "linear", "factor": "2"}, 8, 'rope_parameters.factor is "2", but must be a number'),
        ({"rope_type": "linear", "factor": float("inf")}, 8, (
            "rope_parameters.factor is Infinity, but must be a number"
        )),
        ({"rope_type": "yarn", "factor": 2.0, "beta_fast": -1}, 8, (
            "rope_parameters.beta_fast is -1, but must be greater than 0"
        )),
        ({"rope_type": "yarn", "factor": 2.0, "truncate": 1}, 8, (
            "rope_parameters.truncate is 1, but must be true or false"
        )),
        ({**LLAMA3, "high_freq_factor": 1}, 8, (
            "rope_parameters.high_freq_factor is 1, but must be greater than low_freq_factor, 1"
        )),
        ({**LLAMA3, "original_max_position_embeddings": 0}, 8, (
            "rope_parameters.original_max_position_embeddings is 0, but must be at least 1"
        )),
        ({"rope_type": "longrope", "short_factor": [1, 1, 1, 1]}, 8, (
            "rope_parameters.long_factor is null, but must be a list of 4 numbers above 0"
        )),
        ({"rope_type": "longrope", "short_factor": [1, 0, 1, 1]}, 8, (
            "rope_parameters.short_factor is [1, 0, 1, 1], but must be a list of 4 numbers above 0"
        )),
        ({**BY_LENGTH["longrope"], "rope_type": "longrope", "original_max_position_embeddings": 1}, 16, (
            "original_max_position_embeddings is 1, but must be at least 2, as longrope rotary positions ask"
        )),
        ({"rope_theta": 1.0}, 8, "rope_parameters.rope_theta is 1.0, but must be greater than 1"),
        ({"rope_type": "default"}, 5, (
            "head_dim is 5, but must be even and in 2..8192, as default rotary positions ask\n"
            "  = help: head_dim is hidden_size / num_attention_heads where it is not stated"
        )),
        ({"rope_type": "dynamic", "factor": 2.0}, 2, (
            "head_dim is 2, but must be even and in 4..8192, as dynamic rotary positions ask\n"
            "  = help: head_dim is hidden_size / num_attention_heads where it is not stated"
        )),
    ],
)   # fmt: skip
def test_what_is_wrong_is_said(rope: dict[str, Any], dim: int, message: str) -> None:
    with pytest.raises(TrtcError) as error:
        ours({"head_dim": dim, "max_position_embeddings": 64, "rope_parameters": rope})
    assert str(error.value) == f"error: config.json: {message}"
