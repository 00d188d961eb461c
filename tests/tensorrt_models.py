"""Small LLaMA graphs with random weights, for the tests of the TensorRT back end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from trtc.backend.tensorrt.target import tensorrt_rtx
from trtc.frontend.config import DecoderConfig, RopeConfig
from trtc.frontend.decoder import Limits, build_decoder
from trtc.ir import Array, DType, Graph, TensorType, Value, f32
from trtc.ir.ops import Weight
from trtc.ir.types import evaluate
from trtc.passes import Pipeline
from trtc.passes.widen import widen

CAPACITY = 32
LIMITS = Limits(max_batch_size=4, max_input_len=16, max_seq_len=CAPACITY)
LOWER = f"specialize{{size=M value={CAPACITY}}},fuse,lower{{target={tensorrt_rtx('').name}}}"

BASE = DecoderConfig(
    architecture="LlamaForCausalLM", hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, vocab_size=50, max_position_embeddings=64, norm_eps=1e-5,
    rope=RopeConfig(10000.0, 16), hidden_act="silu", tie_word_embeddings=False,
)   # fmt: skip


@dataclass(frozen=True)
class Model:
    """A graph of plain ops that computes in f32, the same lowered for TensorRT-RTX, and the weights of both."""

    plain: Graph
    lowered: Graph
    tensors: Mapping[str, Array]


def model(config: DecoderConfig, dtype: DType, pipeline: str = LOWER, seed: int = 0) -> Model:
    """A model of this config with random weights that keep activations near 1."""
    random = np.random.default_rng(seed)
    tensors: dict[str, Array] = {}

    def weights(role: str, *shape: int) -> Value:
        array = random.standard_normal(shape) / np.sqrt(shape[-1]) if len(shape) == 2 else 1 + random.random(shape) / 4
        tensors[role] = array.astype(dtype.numpy)
        return Weight(role, TensorType(dtype, shape))

    plain = build_decoder(config, weights, LIMITS, dtype)
    return Model(widen(plain, dtype, f32), Pipeline.parse(pipeline).run(plain), tensors)


def caches(graph: Graph, batch: int) -> dict[str, Array]:
    """Caches that hold numbers which must not be read."""
    random = np.random.default_rng(1)
    found = {i.key: i for i in graph.inputs if i.key.endswith("_cache")}
    known = {"B": batch, "M": CAPACITY}
    shapes = {key: [evaluate(size, known) for size in i.shape] for key, i in found.items()}
    return {key: random.standard_normal(shape).astype(found[key].dtype.numpy) for key, shape in shapes.items()}


def step(ids: Array, lengths: Array, past: Array) -> dict[str, Array]:
    """The inputs of one call but for the caches."""
    named = {"input_ids": ids, "input_lengths": lengths, "past_lengths": past}
    return {key: np.asarray(value, np.int32) for key, value in named.items()}
