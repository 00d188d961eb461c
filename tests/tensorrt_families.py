"""Tiny models of every family, lowered for one TensorRT or another, and what their networks compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from itertools import islice
from typing import Any

import family_cases
import family_cases_moe
import family_cases_new
import numpy as np
from models import KNOWN, LIMITS, Case, Floats, calls, checkpoint, graph_logits
from tensorrt_evaluator import Evaluator, network_of

from trtc.backend.tensorrt.bindings import dtype_of
from trtc.compiler import Model, plan, read_model
from trtc.frontend import DTYPES
from trtc.ir import Array, Graph, Op, bf16, f16, f32
from trtc.ir.ops import Constant
from trtc.ir.ops.attention import appended
from trtc.passes import Pipeline
from trtc.passes.widen import widen

STEP = {f16: 2.0**-10, bf16: 2.0**-7}   # between the numbers of a type, at 1
CALLS = 3   # of a case's that are compared: the prefill, and decode steps
MODULES = (family_cases, family_cases_moe, family_cases_new)   # which fill KNOWN

FIRST: dict[str, Case] = {}
"""The first case of each architecture."""
for each in KNOWN.values():
    FIRST.setdefault(each.architecture, each)

UNFUSED = {"Gemma2ForCausalLM"}   # whose scores are capped, which no kernel of TensorRT knows


def agrees(case: Case, dtype: str, target: str, trt: Any = None) -> tuple[Model, Graph, Evaluator]:
    """Assert that the network of a case for a target gives the graph's logits: prefill, then decode, ragged.

    Both compute in f32 on weights that are rounded alike, and logits are about 1. But numbers of the model's own, such
    as multipliers, stand in the network as its type has them, and whole in the graph in f32.
    """
    model, narrow = fused(case.name, dtype), DTYPES[dtype]
    graph = plan(model, target=target, passes="").graph
    network = network_of(graph, model.checkpoint.source, rounds=False, trt=trt)
    tolerance = 2e-5 if all(map(is_exact, graph.ops)) else 4 * STEP[narrow]
    for n, value in enumerate(graph.outputs.values()):
        assert network.network.get_output(n).dtype == dtype_of(network.trt, value.dtype)
    np.testing.assert_allclose(logits(network, case), meant(case.name, dtype)[:, :CALLS], rtol=0, atol=tolerance)
    return model, graph, network


@cache
def fused(name: str, dtype: str) -> Model:
    """A case's model, with the passes run that come before any target's."""
    model = read_model(checkpoint(name), dtype=dtype, **LIMITS)
    return replace(model, graph=Pipeline.parse("fuse").run(model.graph))


def is_exact(op: Op) -> bool:
    """Whether an op is no number that its element type rounds."""
    if not isinstance(op, Constant) or not op.dtype.is_float:
        return True
    return [float(x) for x in np.array(op.values).astype(op.dtype.numpy)] == list(op.values)


@cache
def meant(name: str, dtype: str) -> Floats:
    """The logits by the graph of plain ops itself, in f32 (the front end's tests compare them with transformers')."""
    model = read_model(checkpoint(name), dtype=dtype, **LIMITS)
    return graph_logits(widen(model.graph, DTYPES[dtype], f32), model.checkpoint.source, KNOWN[name])


def target_of(version: str) -> str:
    """The target that a version of a stand-in is."""
    rtx, _, number = version.rpartition(" ")
    return f"tensorrt-rtx:{number}" if rtx else f"tensorrt:{version}"


def logits(network: Evaluator, case: Case) -> Floats:
    """Logits [sequence, call, word] of the case's calls, prefill and decode, by a network."""
    sizes = {"B": len(case.lengths), "M": LIMITS["max_seq_len"]}
    caches: dict[str, Array] = {}
    for i in range(network.network.num_inputs):
        if (t := network.network.get_input(i)).name.endswith("_cache"):
            shape = (sizes["B"], t.shape[1], sizes["M"], t.shape[3])
            caches[t.name] = np.zeros(shape, np.float32)
    rows: list[Floats] = []
    for ids, lengths, past in islice(calls(case), CALLS):
        got = network({"input_ids": ids, "input_lengths": lengths, "past_lengths": past, **caches})
        caches = {key: held(got, key, cache, past) for key, cache in caches.items()}
        rows.append(got["logits"])
    return np.stack(rows, 1)


def held(got: Mapping[str, Array], key: str, cache: Array, past: Array) -> Array:
    """A cache after a call: the network's, or with the rows that it gives appended, as the runtime does."""
    return got[f"{key}.next"] if f"{key}.next" in got else appended(cache, got[f"{key}.new"], past)
