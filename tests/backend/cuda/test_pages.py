"""Plans with pages compute what transformers does, whatever pages sequences have; wrong pages are seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import models
import numpy as np
import pytest
from cuda_families import padded
from models import KNOWN, STEPS, Case, Floats, checkpoint, every, fresh_reference

from trtc.backend.cuda.plan import plans_of
from trtc.backend.cuda.simulate import Simulator
from trtc.compiler import plan, read_model
from trtc.ir.op import Array
from trtc.ir.types import evaluate
from trtc.runtime.gpu.pages import PageTable, pages_of

LIMITS: dict[str, Any] = {"max_batch_size": 4, "max_input_len": 140, "max_seq_len": 150}
BORDERS = (63, 64, 128)   # tokens of prompts: a page ends in the steps that follow, or has ended
NAMES = ("gqa-tied-head16", "mistral-window5", "gemma2", "bloom", "mixtral", "deepseek-v2-lite", "phi3-window5")
Change = Callable[[PageTable, int], None]


def keep(table: PageTable, call: int) -> None:
    """Change nothing."""


@cache
def simulator(name: str) -> Simulator:
    model = read_model(checkpoint(name), dtype="float32", **LIMITS)
    made = plan(model, target="cuda:90", paged_kv_cache=True)
    return Simulator(plans_of(made.graph, [90])[0], model.checkpoint.source)


def logits(name: str, change: Change = keep, lengths: tuple[int, ...] = BORDERS) -> Floats:
    """Logits [sequence, call, word] of a prefill and decode steps; what no sequence has written is NaN.

    Args:
        change: told of the table before each call.
    """
    made, case = simulator(name), replace(KNOWN[name], lengths=lengths)
    batch, each = 1 << (len(lengths) - 1).bit_length(), pages_of(LIMITS["max_seq_len"])
    sizes = {"B": batch, "P": 1 + batch * each}
    table = PageTable(batch, each, sizes["P"])
    pools = {
        i.key: np.full([evaluate(size, sizes) for size in i.shape], np.nan, np.float32)
        for i in made.plan.phases[0].phase.graph.inputs if i.key.endswith("_cache")
    }   # fmt: skip
    rows: list[Array] = []
    for call, told in enumerate(padded(case, batch)):
        table.hold((told["past_lengths"] + told["input_lengths"])[: len(lengths)])
        change(table, call)
        out = made.run({**told, **pools, "pages": table.array}, {**sizes, "S": told["input_ids"].shape[1]})
        pools = {key: out[key] for key in pools}
        rows.append(out["logits"][: len(lengths)])
    return np.stack(rows, 1)


@cache
def wanted(name: str) -> Floats:
    case = replace(KNOWN[name], lengths=BORDERS)
    return np.stack(fresh_reference(checkpoint(name), case, "float32"))


@pytest.mark.parametrize("name", NAMES)
def test_prompts_about_the_borders_of_pages(name: str) -> None:
    np.testing.assert_allclose(logits(name), wanted(name), rtol=0, atol=3e-5)


@every(KNOWN)
def test_every_family_can_have_pages(case: Case) -> None:
    model = read_model(checkpoint(case.name), dtype="float16", **models.LIMITS)
    made = plan(model, target="cuda:90", paged_kv_cache=True)
    caches = [i for i in made.graph.inputs if i.key.endswith("_cache")]
    ops = [op.name for op in made.graph.ops if op.name.endswith(("append", "update", "attention"))]
    assert ops == ["cuda.rope_and_append", "cuda.prefill_attention"] * (len(caches) // 2)
    assert {(str(i.shape[0]), i.shape[2]) for i in caches} == {("P", 64)}
    assert made.cache["page"] == 64 and "M" not in made.graph.bounds


def shuffled(table: PageTable, call: int) -> None:
    """Have the first call's pages anywhere in the pool."""
    if call == 0:
        free: Any = table._free   # pyright: ignore[reportPrivateUsage]
        held = np.sort(table.array[table.array > 0])
        new = np.random.default_rng(5).permutation(np.concatenate([held, free]))
        table.array[table.array > 0], free[:] = new[: len(held)], new[len(held) :].tolist()


def test_pages_may_lie_anywhere() -> None:
    assert (logits(NAMES[0], shuffled) == logits(NAMES[0])).all()


def late(table: PageTable, call: int) -> None:
    """Give the page of a sequence that crosses a border one call too late."""
    if call == 1:
        table.array[1, 1] = 0


def shifted(table: PageTable, call: int) -> None:
    """Have a sequence's pages begin one too early, once there are some."""
    if call == 2:
        table.array[2] -= 1


def shared(table: PageTable, call: int) -> None:
    """Give a page to two sequences."""
    table.array[1, 0] = table.array[0, 0]


def swapped(table: PageTable, call: int) -> None:
    """Have a sequence's last two pages change places; the order of full ones is nothing to attention."""
    if call == 2:
        table.array[2, 1:] = table.array[2, :0:-1]


@pytest.mark.parametrize("change", [late, shifted, shared, swapped])
def test_a_wrong_page_is_seen(change: Change) -> None:
    assert STEPS >= 2
    got = logits(NAMES[0], change)
    assert not np.allclose(got, wanted(NAMES[0]), rtol=0, atol=1e-3)
