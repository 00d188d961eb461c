"""Engines of weights that stay 4 and 8 bits: as many bytes as these say, and transformers' logits of what they mean."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from emulated_cuda import compile_emulated, install
from models import LIMITS, Case
from quantizers import SCHEMES, quantise

from trtc.runtime.bundle import EngineBundle

save: Any = import_module("safetensors.torch").save_file
CASE = Case(   # of prompts of one token, which decode steps take
    "quantised", {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 1}, "float16",
    lengths=(1, 1, 1),
)   # fmt: skip


def stored(bundle: EngineBundle) -> int:
    """The bytes of all tensors in weights.safetensors."""
    content = (bundle.path / "rank0" / "weights.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return max(tensor["data_offsets"][1] for tensor in header.values())


def compiled(
    name: str, dtype: str, patch: pytest.MonkeyPatch, folder: Path
) -> tuple[EngineBundle, EngineBundle, Mapping[str, Any]]:
    """The engines of a quantised model and of what it means, and its quantised weights as they are meant."""
    plain = models.write(CASE, folder / "plain")
    meant = quantise(SCHEMES[name], plain, folder / "quantised")
    shutil.copytree(plain, folder / "meant")
    save({**models.torch_tensors(plain), **meant}, folder / "meant" / "model.safetensors")
    few, whole = (
        compile_emulated(patch, folder / kind, folder / f"{kind}-engine", dtype, **LIMITS)
        for kind in ("quantised", "meant")
    )
    return few, whole, meant


@pytest.mark.parametrize(("name", "bits"), [
    ("awq", 4 + (16 + 16) / 32),   # a scale and a zero for 32 elements
    ("fp8-blocks-of-128", 8 + 16 / 128),
    ("packed-4-symmetric", 4 + 16 / 32),
])   # fmt: skip
def test_weights_take_the_bytes_that_their_bits_say(
    name: str, bits: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, whole, meant = compiled(name, "float16", monkeypatch, tmp_path)
    assert stored(whole) - stored(few) == sum(weight.numel() for weight in meant.values()) * (16 - bits) / 8


def test_logits_are_those_of_what_the_weights_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few, _, _ = compiled("awq", "float16", monkeypatch, tmp_path)
    install(monkeypatch)
    want = np.stack(models.fresh_reference(tmp_path / "meant", CASE, "float16"))
    np.testing.assert_allclose(models.engine_logits(few, CASE), want, rtol=0, atol=2e-2)   # of logits of up to 2
