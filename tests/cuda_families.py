"""Tiny models of every family as launch plans, and what the plans compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import islice
from typing import Any

import family_cases
import family_cases_moe
import family_cases_new
import numpy as np
from models import KNOWN, LIMITS, Case, Floats, calls, checkpoint, graph_logits

from trtc.backend.cuda.plan import Plan, plans_of
from trtc.backend.cuda.simulate import Simulator
from trtc.compiler import Model, plan, read_model
from trtc.ir import Array, Graph
from trtc.ir.types import evaluate

MODULES = (family_cases, family_cases_moe, family_cases_new)   # which fill KNOWN
CALLS = 3   # of a case's that are compared: the prefill, and decode steps
Run = Callable[[Mapping[str, Array], Mapping[str, int]], Mapping[str, Array]]


@cache
def planned(name: str, dtype: str = "float32") -> tuple[Model, Graph, Plan]:
    """A case's model, its legal graph and its plan."""
    model = read_model(checkpoint(name), dtype=dtype, **LIMITS)
    graph = plan(model, target="cuda:90").graph
    return model, graph, plans_of(graph, [90])[0]


def simulated(name: str, dtype: str = "float32") -> Floats:
    """Logits [sequence, call, word] of the case's calls by its plan."""
    model, graph, made = planned(name, dtype)
    return logits(graph, Simulator(made, model.checkpoint.source).run, KNOWN[name])


def meant(name: str, dtype: str = "float32") -> Floats:
    """The same by the graph of plain ops."""
    model, _, _ = planned(name, dtype)
    return graph_logits(model.graph, model.checkpoint.source, KNOWN[name])[:, :CALLS]


def logits(graph: Graph, run: Run, case: Case) -> Floats:
    """Logits of the case's calls by something that runs the graph's plan, in batches as the runtime makes them."""
    many = len(case.lengths)
    batch = 1 << (many - 1).bit_length()
    sizes = {"B": batch, "M": LIMITS["max_seq_len"]}
    caches: dict[str, Array] = {
        i.key: np.zeros([evaluate(s, sizes) for s in i.shape], i.dtype.numpy)
        for i in graph.inputs
        if i.key.endswith("_cache")
    }
    rows: list[Array] = []
    for told in islice(padded(case, batch), CALLS):
        out = run({**told, **caches}, {**sizes, "S": told["input_ids"].shape[1]})
        caches = {key: out[key] for key in caches}
        check_choice(out, told)
        rows.append(out["logits"][:many].astype(np.float32))
    return np.stack(rows, 1)


def padded(case: Case, batch: int) -> Iterator[dict[str, Array]]:
    """The case's calls; rows beyond its sequences are padding of one token."""
    for arrays in calls(case):
        more = [np.full((batch - len(a), *a.shape[1:]), n, a.dtype) for a, n in zip(arrays, (0, 1, 0), strict=True)]
        joined = [np.concatenate(pair) for pair in zip(arrays, more, strict=True)]
        yield dict(zip(("input_ids", "input_lengths", "past_lengths"), joined, strict=True))


def check_choice(out: Mapping[str, Any], told: Mapping[str, Array]) -> None:
    """Assert that what a greedy next step reads fits the logits."""
    order = np.argsort(-out["logits"].astype(np.float32), axis=1, kind="stable")
    assert (out["top_ids"] == order[:, : out["top_ids"].shape[1]]).all()
    assert (out["top_logits"] == np.take_along_axis(out["logits"], out["top_ids"], 1)).all()
    assert (out["input_ids.next"] == out["top_ids"][:, :1]).all()
    assert (out["past_lengths.next"] == told["past_lengths"] + told["input_lengths"]).all()
