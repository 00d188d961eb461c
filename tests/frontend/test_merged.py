"""Weights that are parts of tensors: the same numbers as PyTorch's views of them give."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from tensorrt_models import BASE

from trtc.errors import TrtcError
from trtc.frontend.config import DecoderConfig
from trtc.frontend.merged import all_of, part_of, qkv_parts, stored, turned
from trtc.frontend.weights import Entry, Weights, named
from trtc.ir import Array, TensorType, f32
from trtc.ir.materialize import materialize

torch: Any = import_module("torch")
HIDDEN, SIZE = 24, 4
LAYER = "transformer.layers.{n}"


class Tensors(dict[str, Array]):
    """A checkpoint in memory."""

    def __getitem__(self, key: str) -> Array:
        return super().__getitem__(key)

    def type(self, key: str) -> TensorType:
        return TensorType(f32, self[key].shape)

    def release(self, key: str) -> None: ...


def weights(names: dict[str, Entry], tensors: Tensors, heads: int = 6, kv_heads: int = 6) -> Weights:
    config: DecoderConfig = replace(
        BASE, hidden_size=HIDDEN, num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=SIZE
    )
    return Weights(tensors, named(names, config, tensors), f32)


def floats(*shape: int) -> Array:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def check(found: Weights, role: str, want: Any) -> None:
    """Assert that a role's weight is this tensor of PyTorch's."""
    assert isinstance(found.source, Tensors)
    np.testing.assert_array_equal(materialize(found(role, *want.shape), found.source), want.numpy())


@pytest.mark.parametrize("kv_heads", [6, 3, 1])
@pytest.mark.parametrize("grouped", [False, True])
def test_q_k_and_v_of_one_tensor(kv_heads: int, grouped: bool) -> None:
    """As GPT-2 and Baichuan split it, or as Falcon views it; for as many key heads as heads, as BLOOM and GPT-NeoX."""
    rows = (6 + 2 * kv_heads) * SIZE
    tensors = Tensors({"h.1.qkv.weight": floats(rows, HIDDEN), "h.1.qkv.bias": floats(rows)})
    names: dict[str, Entry] = {**qkv_parts(LAYER, stored("h.{n}.qkv"), grouped=grouped)}
    found = weights(names, tensors, kv_heads=kv_heads)
    for kind in ("weight", "bias"):
        whole = torch.from_numpy(tensors[f"h.1.qkv.{kind}"])
        rest = tuple(whole.shape[1:])
        if grouped:
            view = whole.view(kv_heads, 6 // kv_heads + 2, SIZE, *rest)
            parts = [view[:, :-2], view[:, -2], view[:, -1]]
        else:
            parts = whole.split([6 * SIZE, kv_heads * SIZE, kv_heads * SIZE])
        for part, want in zip("qkv", parts, strict=True):
            check(found, f"transformer.layers.1.attention.{part}.{kind}", want.reshape(-1, *rest))


def test_layers_of_gpt2_are_transposed() -> None:
    layer: Any = import_module("transformers.pytorch_utils").Conv1D(3 * HIDDEN, HIDDEN)
    weight, bias = floats(HIDDEN, 3 * HIDDEN), floats(3 * HIDDEN)
    tensors = Tensors({"h.0.fc.weight": weight, "h.0.fc.bias": bias})
    found = weights({f"{LAYER}.mlp.fc": all_of(turned("h.{n}.fc")), **qkv_parts(LAYER, turned("h.{n}.fc"))}, tensors)
    layer.weight.data, layer.bias.data = torch.from_numpy(weight), torch.from_numpy(bias)
    x = torch.from_numpy(floats(2, HIDDEN))
    linear = torch.nn.functional.linear
    whole = [materialize(found(f"transformer.layers.0.mlp.fc.{kind}", *shape), tensors)
             for kind, shape in (("weight", (3 * HIDDEN, HIDDEN)), ("bias", (3 * HIDDEN,)))]   # fmt: skip
    with torch.no_grad():
        torch.testing.assert_close(linear(x, *map(torch.from_numpy, map(np.ascontiguousarray, whole))), layer(x))
    for n, part in enumerate("qkv"):
        rows = slice(n * HIDDEN, (n + 1) * HIDDEN)
        check(found, f"transformer.layers.0.attention.{part}.weight", torch.from_numpy(weight.T[rows]))
        check(found, f"transformer.layers.0.attention.{part}.bias", torch.from_numpy(bias[rows]))


def test_equal_parts() -> None:
    tensors = Tensors({"h.0.both.weight": floats(20, HIDDEN)})
    roles: dict[str, Entry] = {
        f"{LAYER}.mlp.{name}": part_of(stored("h.{n}.both"), i, 2) for i, name in enumerate(("fc", "gate"))
    }
    found = weights(roles, tensors)
    for name, want in zip(("fc", "gate"), torch.from_numpy(tensors["h.0.both.weight"]).chunk(2), strict=True):
        check(found, f"transformer.layers.0.mlp.{name}.weight", want)


def test_a_tensor_of_another_size_is_named() -> None:
    found = weights({**qkv_parts(LAYER, stored("h.{n}.qkv"))}, Tensors({"h.0.qkv.weight": floats(70, HIDDEN)}))
    with pytest.raises(TrtcError) as error:
        found("transformer.layers.0.attention.k.weight", 24, HIDDEN)
    assert str(error.value) == (
        "error: tensor h.0.qkv.weight is f32[70, 24], but the config asks for f32[72, 24]\n"
        "  = it is transformer.layers.0.attention.k.weight\n"
        "  = help: the tensors and the config are of different models"
    )
