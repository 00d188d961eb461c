"""The table that benchmarks/gpu/cuda_speed.py ends with, from lines such as docs/benchmarks.md keeps."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SPEEDS = "copies move 3.02 TB/s, read and written\na product of 8192 x 8192 x 8192 in bf16 makes 792 TFLOP/s\n"


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "benchmarks/gpu")])
    module: Any = import_module("cuda_table")
    return module.table


def test_what_a_run_said(table: Callable[[str], str]) -> None:
    document = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    run = document[document.index("built in 22.4 s") : document.index("The floor of decode is")]
    ours, last = table(SPEEDS + run).splitlines(), "| prefill, 1 x 128 | 9.77 | | | 4.97 | 51% |"
    assert ours[2] == "| decode, batch 1, 1,024 tokens in 1,152 | 5.55 | 8.50 (torch.compile) | 1.53 | 5.01 | 90% |"
    assert ours[6] == "| decode, batch 64, 1,024 tokens in 1,152 | 9.97 | 67.65 (eager) | 6.78 | 7.81 | 78% |"
    assert ours[8] == "| prefill, 1 x 1,024 | 26.63 | 32.78 (eager) | 1.23 | 18.40 | 69% |"
    assert (len(ours), ours[-1]) == (11, last)


def test_the_floor_is_that_of_all_weights_but_the_embedding(table: Callable[[str], str]) -> None:
    """Of LLaMA 3.1 8B: 8,030,261,248 parameters, as Meta counts them, 128,256 x 4,096 of them in the embedding."""
    line = "decode, batch 1, behind 0 tokens, capacity 64: 5.0 ms by events"
    floor = float(table(SPEEDS + line).splitlines()[-1].split("|")[5])
    assert floor == pytest.approx(2 * (8_030_261_248 - 128_256 * 4_096) / 3.02e12 * 1e3, abs=0.01)


def test_an_output_without_the_speeds(table: Callable[[str], str]) -> None:
    with pytest.raises(ValueError, match=r"^no speed of copies and products in this output, but cuda_speed\.py"):
        table("prefill of 1 x 1024 tokens: 26.63 ms")
