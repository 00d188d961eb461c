"""Every family gives the same logits and caches for packed tokens as for padded ones."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from models import LIMITS, Case, calls, checkpoint, every
from tensorrt_families import FIRST

from trtc.compiler import read_model
from trtc.ir.errors import PassError
from trtc.ir.types import evaluate
from trtc.passes import Pipeline

TOLERANCE = 1e-5   # f32 on both sides, sums in another order; logits are about 1


@every({case.name: case for case in FIRST.values()})
def test_packed_tokens_give_what_padded_ones_give(case: Case) -> None:
    model = read_model(checkpoint(case.name), dtype="float32", **LIMITS)
    padded = Pipeline.parse("fuse").run(model.graph)
    packed = Pipeline.parse("pack-inputs,canonicalize,cse").run(padded)
    sizes = {"B": len(case.lengths), "M": LIMITS["max_seq_len"]}
    kept = {i.key: i for i in padded.inputs if i.key.endswith("_cache")}
    ours = theirs = {k: np.zeros([evaluate(s, sizes) for s in i.shape], np.float32) for k, i in kept.items()}
    weights = dict(model.checkpoint.source)
    for ids, lengths, past in islice(calls(case), 3):
        padding = {"input_ids": ids, "input_lengths": lengths, "past_lengths": past}
        want = padded.evaluate({**weights, **padding, **theirs})
        row = np.concatenate([r[:n] for r, n in zip(ids, lengths, strict=True)])
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        got = packed.evaluate({**weights, "input_ids": row, "query_starts": starts, "past_lengths": past, **ours})
        np.testing.assert_allclose(got["logits"], want["logits"], rtol=0, atol=TOLERANCE)
        for key in kept:
            for b, end in enumerate(past + lengths):
                np.testing.assert_allclose(got[key][b, :, :end], want[key][b, :, :end], rtol=0, atol=TOLERANCE)
        ours, theirs = {k: got[k] for k in kept}, {k: want[k] for k in kept}


@pytest.mark.parametrize("most", [0, 20])
def test_tokens_are_bounded(most: int) -> None:
    model = read_model(checkpoint("mha"), **LIMITS)
    made = Pipeline.parse(f"fuse,pack-inputs{{max-tokens={most}}}").run(model.graph)
    assert made.bounds["T"] == (1, most or 160) and "S" not in made.bounds


def test_logits_of_every_token_are_packed_too() -> None:
    model = read_model(checkpoint("mha"), dtype="float32", all_logits=True, **LIMITS)
    made = Pipeline.parse("fuse,pack-inputs").run(model.graph)
    assert [str(s) for s in made.outputs["logits"].shape] == ["T", "97"]


def test_attention_that_is_not_fused_cannot_take_them() -> None:
    model = read_model(checkpoint("mha"), **LIMITS)
    with pytest.raises(PassError, match=r"pack-inputs: .* at transformer\.layers\.0\.attention cannot take packed"):
        Pipeline.parse("pack-inputs").run(model.graph)
