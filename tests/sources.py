"""What tests of sources share: a model in two forms has the same weights; damaged files."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from trtc.frontend import Checkpoint, Compilable, Limits, build_decoder
from trtc.frontend.weights import Weights
from trtc.ir.materialize import materialize
from trtc.ir.types import f32


def same_weights(first: Compilable, second: Compilable) -> None:
    """Every role that the decoder asks for is the same, bit by bit."""
    assert isinstance(first, Checkpoint) and isinstance(second, Checkpoint)
    asked: list[tuple[Any, ...]] = []

    def heard(*arguments: Any) -> Any:
        asked.append(arguments)
        return first.expression(*arguments)

    listening = Weights(first.source, heard, f32)
    build_decoder(first.config, listening, Limits(2, 8, 16), f32)
    assert len(asked) >= 9 * first.config.num_hidden_layers + 3 - first.config.tie_word_embeddings
    for role, shape, _ in asked:
        pair = [materialize(Weights(c.source, c.expression, f32)(role, *shape), c.source) for c in (first, second)]
        np.testing.assert_array_equal(*pair, err_msg=role)


def damaged(content: bytes, data: st.DataObject) -> bytes:
    """Bytes changed, cut off or put in."""
    made = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(made) - 1)))
        kind = data.draw(st.sampled_from(["change", "change", "cut", "insert"]))
        new = data.draw(st.binary(min_size=1, max_size=8))
        made[at : len(made) if kind == "cut" else at + (len(new) if kind == "change" else 0)] = new
    return bytes(made)
