"""Engines of target cuda give transformers' logits: run by the real runtime over stand-ins for driver and cuBLASLt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from emulated_cuda import compile_emulated, install
from models import CASES, LIMITS, checkpoint, engine_logits, reference

TOLERANCE = {"float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}   # of logits near 1/2


@pytest.mark.parametrize(("name", "dtype"), [("mha", "float32")])
def test_logits_are_those_of_transformers(
    name: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, model = CASES[name], checkpoint(name)
    bundle = compile_emulated(monkeypatch, model, tmp_path / "engine", dtype, **LIMITS)
    install(monkeypatch)
    want = np.stack(reference(model, case, dtype))
    np.testing.assert_allclose(engine_logits(bundle, case), want, atol=TOLERANCE[dtype])
