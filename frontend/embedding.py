"""What a decoder's first layer reads: embedded tokens, and their positions where a model learns them."""

from __future__ import annotations

import numpy as np

from trtc.frontend.config import DecoderConfig
from trtc.frontend.layers import Lookup, linear, norm, times
from trtc.ir.op import Value, at
from trtc.ir.ops import Add, Embedding
from trtc.ir.types import DType


def embed(
    config: DecoderConfig, weights: Lookup, ids: Value, positions: Value, dtype: DType
) -> tuple[Value, Value]:
    """The embedded tokens, float[B, S, H], and the table that they are from.

    Args:
        ids, positions: i32[B, S].
    """
    with at("transformer.vocab_embedding"):
        size = config.embedding_dim or config.hidden_size
        table = weights("transformer.vocab_embedding.weight", config.vocab_size, size)
        x = times(Embedding(table, ids), _multiplier(config, dtype))
    if config.embedding_dim:
        x = linear(weights, "transformer.project_in", x, config.hidden_size, False)
    if config.learned_positions:
        with at("transformer.position_embedding"):
            rows = weights("transformer.position_embedding.weight", config.max_position_embeddings, config.hidden_size)
            x = Add(x, Embedding(rows, positions))
    return norm(config, weights, "transformer.ln_embed", x) if config.embedding_norm else x, table


def _multiplier(config: DecoderConfig, dtype: DType) -> float:
    number = config.embedding_multiplier
    return float(np.array(number, dtype.numpy)) if config.round_embedding_multiplier else number
