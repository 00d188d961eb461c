"""Which part of each weight is whose, against Megatron's rule and numpy.array_split."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtc.passes.tensor_parallel import divided_axis, is_divisible, share, stage_layers

LAYER = "transformer.layers.3"


@pytest.mark.parametrize(
    ("role", "shape", "axis"),
    [
        (f"{LAYER}.attention.q.weight", (64, 32), 0),
        (f"{LAYER}.attention.v.bias", (64,), 0),
        (f"{LAYER}.attention.dense.weight", (32, 64), 1),
        (f"{LAYER}.attention.dense.bias", (32,), None),
        (f"{LAYER}.attention.q_layernorm.weight", (16,), None),
        (f"{LAYER}.attention.q_layernorm.weight", (4, 16), 0),
        (f"{LAYER}.attention.k_layernorm.weight", (64,), 0),
        (f"{LAYER}.mlp.fc.weight", (48, 32), 0),
        (f"{LAYER}.mlp.gate.bias", (48,), 0),
        (f"{LAYER}.mlp.proj.weight", (32, 48), 1),
        (f"{LAYER}.mlp.fc.weight", (8, 48, 32), 1),
        (f"{LAYER}.mlp.gate.bias", (8, 48), 1),
        (f"{LAYER}.mlp.proj.weight", (8, 32, 48), 2),
        (f"{LAYER}.mlp.proj.bias", (8, 32), None),
        (f"{LAYER}.mlp.router.weight", (8, 32), None),
        (f"{LAYER}.input_layernorm.weight", (32,), None),
        ("transformer.ln_f.weight", (32,), None),
        ("transformer.position_embedding.weight", (64, 32), None),
        ("lm_head.weight", (100, 32), 0),
        ("lm_head.bias", (100,), 0),
    ],
)
def test_axes(role: str, shape: tuple[int, ...], axis: int | None) -> None:
    assert divided_axis(role, shape, 16) == axis


@given(st.integers(1, 8), st.integers(1, 4), st.integers(1, 5))
def test_shares_are_those_of_array_split(ranks: int, times: int, width: int) -> None:
    whole = np.arange(ranks * times * width)
    for rank, part in enumerate(np.array_split(whole, ranks)):
        start, length = share(len(whole), ranks * times, rank, ranks)
        np.testing.assert_array_equal(whole[start : start + length], part)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5))
def test_heads_that_are_fewer_than_ranks_are_had_by_several_in_a_row(heads: int, times: int, width: int) -> None:
    whole, ranks = np.arange(heads * width), heads * times
    repeated = np.repeat(whole.reshape(heads, width), times, 0)   # as TensorRT-LLM's dup_kv_weight does
    for rank, part in enumerate(np.array_split(repeated.reshape(-1), ranks)):
        start, length = share(len(whole), heads, rank, ranks)
        np.testing.assert_array_equal(whole[start : start + length], part)


def test_what_can_be_divided() -> None:
    assert is_divisible(8, 4, repeats=False) and is_divisible(2, 4, repeats=True)
    assert not is_divisible(2, 4, repeats=False) and not is_divisible(6, 4, repeats=True)


@given(st.integers(1, 200), st.integers(1, 16))
def test_stages_are_those_of_tensor_split(layers: int, stages: int) -> None:
    expected = [list(map(int, part)) for part in np.array_split(np.arange(layers), stages)]
    assert [list(part) for part in stage_layers(layers, stages)] == expected
