"""Slopes of ALiBi: those of transformers for every number of heads."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import pytest

from trtc.frontend.alibi import alibi_slopes, mpt_slopes
from trtc.frontend.config import Keys
from trtc.frontend.families.falcon import falcon_config

torch: Any = import_module("torch")
HEADS = (*range(1, 34), 40, 56, 64, 71, 112)   # 112: BLOOM 176B, 71: Falcon 7B, 40: Baichuan 13B


def bias_at_one(model: str, heads: int) -> Any:
    """What transformers adds to the scores of the second key, over the first."""
    module: Any = import_module(f"transformers.models.{model}.modeling_{model}")
    return module.build_alibi_tensor(torch.ones((1, 2)), heads, torch.float32)[:, 0, 1].float().numpy()


@pytest.mark.parametrize("heads", HEADS)
def test_slopes_are_those_of_bloom(heads: int) -> None:
    np.testing.assert_allclose(alibi_slopes(heads), bias_at_one("bloom", heads), rtol=2e-6)   # powers in f32


@pytest.mark.parametrize("heads", [8, 12, 32])
def test_slopes_of_falcon_are_rounded_as_transformers_rounds_them(heads: int) -> None:
    keys = {
        "hidden_size": 16 * heads, "num_attention_heads": heads, "num_hidden_layers": 1, "vocab_size": 7,
        "alibi": True,
    }   # fmt: skip
    got = falcon_config(Keys(keys, "config.json")).alibi_slopes
    np.testing.assert_allclose(np.array(got) * 4, bias_at_one("falcon", heads), rtol=1e-6)   # sqrt(16)


@pytest.mark.parametrize("greatest", [8, 5, 16])
@pytest.mark.parametrize("heads", HEADS)
def test_slopes_are_those_of_mpt(heads: int, greatest: int) -> None:
    module: Any = import_module("transformers.models.mpt.modeling_mpt")
    bias = module.build_mpt_alibi_tensor(heads, 2, greatest)[:, 0]
    np.testing.assert_allclose(mpt_slopes(heads, greatest), (bias[:, 1] - bias[:, 0]).numpy(), rtol=2e-6)
