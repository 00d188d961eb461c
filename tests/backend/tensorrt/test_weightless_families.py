"""A plan without weights is built of every family; fed from the file, its network is the one with weights inside.

That one is compared with the graph in test_rtx_families.py.
"""

from __future__ import annotations

from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorrt_rtx_bindings")

from models import LIMITS, Case, calls, checkpoint, every
from tensorrt_evaluator import kernels, network_of
from tensorrt_families import FIRST, UNFUSED

from trtc.backend.bundle import bundle
from trtc.backend.tensorrt.build import build
from trtc.backend.tensorrt.options import Options
from trtc.backend.tensorrt.target import tensorrt_rtx
from trtc.backend.tensorrt.weightless import without_weights
from trtc.compiler import plan, read_model
from trtc.ir.types import evaluate


@every({case.name: case for case in FIRST.values()})
def test_fed_from_its_file_a_plan_computes_what_one_with_weights_does(case: Case, tmp_path: Path) -> None:
    model = read_model(checkpoint(case.name), dtype="float16", **LIMITS)
    graph, source = plan(model, target="tensorrt-rtx").graph, model.checkpoint.source
    with bundle(tmp_path / "engine", 0) as writer:
        said = build(graph, source, writer, "rank0", target=tensorrt_rtx(""), options=Options(weightless=True))
    fused = [name for name in kernels((tmp_path / "engine" / said["engine"]).read_bytes()) if "_mha_" in name]
    assert bool(fused) == (case.architecture not in UNFUSED)
    load: Any = import_module("safetensors.numpy").load_file
    tensors = load(tmp_path / "engine" / said["weights"]["file"])
    weights = {name: tensors[tensor].astype(np.float32) for name, tensor in said["weights"]["tensors"].items()}
    inside, fed = network_of(graph, source, rounds=False), network_of(without_weights(graph), {}, rounds=False)
    batch = {"B": len(case.lengths)}
    stored = [i for i in graph.inputs if i.key.endswith("_cache")]
    caches = {i.key: np.zeros([evaluate(size, batch) for size in i.shape], np.float32) for i in stored}
    for ids, lengths, past in islice(calls(case), 2):   # prefill, then decode
        feeds = {"input_ids": ids, "input_lengths": lengths, "past_lengths": past, **caches}
        want, got = inside(feeds), fed({**feeds, **weights})
        assert got["logits"].std() > 0.01
        for name, array in want.items():
            np.testing.assert_array_equal(got[name], array, name)
        caches = {key: got[f"{key}.next"] for key in caches}
