"""The choice of experts and their blocks: as PyTorch and transformers have them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import pytest

from trtc.ir.errors import IRError
from trtc.ir.graph import Graph
from trtc.ir.op import Array, Value
from trtc.ir.ops import Experts, Input, TopK
from trtc.ir.text import parse
from trtc.ir.types import f32, i32

torch: Any = import_module("torch")   # its types are partial
RNG = np.random.default_rng(0)


def floats(*sizes: int) -> Array:
    return RNG.standard_normal(sizes).astype(np.float32)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_top_k(k: int) -> None:
    x = floats(2, 5, 7)
    want = torch.topk(torch.from_numpy(x), k, dim=-1).indices.numpy()
    np.testing.assert_array_equal(TopK(Input("x", f32[x.shape]), k).evaluate(x), want)


def test_of_equal_elements_the_first_is_taken() -> None:
    x = np.array([[1, 3, 3, 2, 3], [0, 0, 0, 0, 0]], np.float32)
    np.testing.assert_array_equal(TopK(Input("x", f32[x.shape]), 4).evaluate(x), [[1, 2, 4, 3], [0, 1, 2, 3]])


def test_experts_as_mixtral_has_them() -> None:
    module: Any = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    config: Any = import_module("transformers").MixtralConfig(hidden_size=8, intermediate_size=6, num_local_experts=4)
    block = module.MixtralExperts(config)
    fc, gate, proj = floats(4, 6, 8), floats(4, 6, 8), floats(4, 8, 6)
    block.gate_up_proj.data = torch.from_numpy(np.concatenate([fc, gate], 1))
    block.down_proj.data = torch.from_numpy(proj)
    x, shares = floats(5, 8), floats(5, 2)
    chosen = np.array([[0, 1], [3, 2], [2, 0], [1, 3], [3, 1]], np.int32)
    want = block(torch.from_numpy(x), torch.from_numpy(chosen).long(), torch.from_numpy(shares)).detach().numpy()
    arrays = (x, chosen, shares, fc, gate, proj)
    inputs = [Input(f"i{n}", (i32 if a is chosen else f32)[a.shape]) for n, a in enumerate(arrays)]
    got = Experts(*inputs).evaluate(*arrays)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


X, FC, PROJ = Input("x", f32["N", 8]), Input("fc", f32[4, 6, 8]), Input("proj", f32[4, 8, 6])
CHOSEN, SHARES = Input("chosen", i32["N", 2]), Input("shares", f32["N", 2])


@pytest.mark.parametrize(
    ("operands", "message"),
    [
        ((X, CHOSEN, SHARES, FC, PROJ, PROJ), "gate is f32[4, 8, 6], but must be f32[4, 6, 8]"),
        ((X, CHOSEN, SHARES, FC, FC, FC), "proj is f32[4, 6, 8], but must be f32[4, 8, 6]"),
        ((SHARES, CHOSEN, SHARES, FC, FC, PROJ), "x is f32[N, 2], but must be f32[N, 8]"),
        ((X, SHARES, SHARES, FC, FC, PROJ), "chosen is f32[N, 2], but must be i32[N, 2]"),
        ((X, CHOSEN, X, FC, FC, PROJ), "shares is f32[N, 8], but must be f32[N, 2]"),
        ((X, CHOSEN, SHARES, X, FC, PROJ), "fc has rank 2, but must have rank 3"),
    ],
)
def test_experts_of_other_sizes_are_refused(operands: tuple[Value, ...], message: str) -> None:
    with pytest.raises(IRError) as error:
        Experts(*operands)
    assert str(error.value).splitlines()[0] == f"error: experts: {message}"


@pytest.mark.parametrize(
    ("x", "k", "message"),
    [
        (X, 9, "k is 9, but the last axis of x has 8"),
        (X, 0, "k is 0, but the last axis of x has 8"),
        (Input("x", f32[8, "N"]), 1, "k is 1, but the last axis of x has N"),
        (Input("x", f32[()]), 1, "x has rank 0, but must have rank 1 at least"),
        (CHOSEN, 1, "x is i32, but must be a float"),
    ],
)
def test_more_than_there_are_cannot_be_greatest(x: Value, k: int, message: str) -> None:
    with pytest.raises(IRError) as error:
        TopK(x, k)
    assert str(error.value).splitlines()[0] == f"error: top_k: {message}"


def test_text_round_trips() -> None:
    scores = Input("scores", f32["N", 4])
    y = Experts(X, TopK(scores, 2), SHARES, FC, FC, PROJ)
    graph = Graph("g", (X, scores, SHARES, FC, PROJ), {"y": y}, {"N": (1, 3)})
    assert parse(str(graph)) == graph and "top_k %scores {k = 2}" in str(graph)
