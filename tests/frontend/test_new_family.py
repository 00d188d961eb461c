"""docs/families.md adds a family from outside the package, in under 40 lines, and checkpoints of it compile."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import models
import numpy as np
import pytest
from family_cases import FULL, SLIDING
from models import KNOWN, LIMITS, Case

import trtc
from trtc.frontend import FAMILIES

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
TEMPERATURE = 1.6
KNOWN["heron"] = Case("heron", {   # what transformers calls Qwen 3, but for the temperature
    "head_dim": 16, "num_key_value_heads": 2, "use_sliding_window": True, "sliding_window": 4,
    "layer_types": [FULL, SLIDING],
}, lengths=(11, 1, 4), model="Qwen3")   # fmt: skip


def test_the_family_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(code) == 1 and len(code[0].splitlines()) < 40
    monkeypatch.setitem(FAMILIES, "HeronForCausalLM", FAMILIES["LlamaForCausalLM"])   # taken out again at the end
    exec(code[0], {})

    case = KNOWN["heron"]
    logits = np.stack(models.reference(models.write(case, tmp_path / "model"), case, "float32")) / TEMPERATURE
    file = tmp_path / "model" / "config.json"
    config = json.loads(file.read_text())
    window = config.pop("sliding_window")
    heron = {"architectures": ["HeronForCausalLM"], "local_window": window, "temperature": TEMPERATURE}
    file.write_text(json.dumps({**config, **heron}))
    bundle = trtc.compile(tmp_path / "model", tmp_path / "engine", target="onnx", **LIMITS)
    assert bundle.source.architecture == "HeronForCausalLM"
    np.testing.assert_allclose(models.engine_logits(bundle, case), logits, rtol=0, atol=5e-5)


def test_a_file_that_is_loaded_may_bring_it(tmp_path: Path) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "heron.py").write_text(code)
    file = models.write(KNOWN["heron"], tmp_path / "model") / "config.json"
    config = json.loads(file.read_text()) | {"architectures": ["HeronForCausalLM"], "local_window": 4}
    file.write_text(json.dumps(config))
    for command in ("compile model --dry-run --target onnx", "dump model"):
        done = subprocess.run(
            [sys.executable, "-m", "trtc", *command.split(), "--load", "heron.py"], cwd=tmp_path, capture_output=True,
            text=True, check=False, env={**os.environ, "PYTHONPATH": str(PAGE.parents[1])},
        )   # fmt: skip
        assert done.returncode == 0, done.stderr
