"""Weights of 8 and 4 bits, as tools write them: which stay so in a plan, and that it means the same."""

from __future__ import annotations

from pathlib import Path

import cuda_families
import gguf_files
import models
import numpy as np
import pytest
from models import Case
from quantizers import FP8, SCHEMES, Scheme, compressed, fp8_blocks, quantise

from trtc.backend.cuda.plan import Plan, plans_of
from trtc.backend.cuda.simulate import Simulator
from trtc.backend.cuda.weight_only import weight_only
from trtc.backend.integers import integers
from trtc.backend.kernels.ops import FusedLinear
from trtc.compiler import plan, read_model
from trtc.ir.materialize import materialize
from trtc.ir.ops import Linear
from trtc.passes.rewrite import Skip

CASE = Case("quantised", {
    "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 1, "num_key_value_heads": 2,
}, dtype="float16")   # fmt: skip
MORE = {
    "packed-4-groups-of-128": compressed("pack-quantized", num_bits=4, group_size=128, strategy="group"),
    "packed-4-rows": compressed("pack-quantized", num_bits=4, strategy="channel"),
    "fp8-blocks-24": Scheme({**FP8, "weight_block_size": [64, 24]}, fp8_blocks(64, 24)),
}
KEPT = {
    "packed-4-groups-of-128": "i4", "packed-4-rows": "i4", "int-8-rows": "i8", "packed-4-symmetric": "i4", "awq": "i4",
    "gptq-4": "i4", "gptq-2": "i8", "int-8-whole": "i8", "fp8-blocks-of-128": "f8e4m3", "modelopt-fp8-rows": "f8e4m3",
}   # fmt: skip
WHOLE = ("gptq-4-ordered", "modelopt-smoothquant")   # scales for each number, and for each column
OTHERS = ("gptq-4-ordered", "gptq-8-v2-last-group-cut", "fp8-blocks-cut", "packed-8-rows", "fp8-whole")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.write(CASE, tmp_path_factory.mktemp("models") / "plain")


def scheme(name: str) -> Scheme:
    return {**SCHEMES, **MORE}[name]


def stored(made: Plan, phase: str) -> set[str]:
    """The element types of the layers' weights."""
    steps = next(p.steps for p in made.phases if p.phase.name == phase)
    return {str(s.op.operands["weight"].dtype) for s in steps if s.op and s.op.name == "cuda.fused_linear"}


@pytest.mark.parametrize("name", [*KEPT, *WHOLE])
def test_a_plan_of_quantised_weights_means_what_they_mean(name: str, plain: Path, tmp_path: Path) -> None:
    """Scales are rounded to f16, where the graph rounds each weight: a few steps of f16 at 1."""
    quantise(scheme(name), plain, tmp_path / name)
    model = read_model(tmp_path / name, **models.LIMITS)
    graph = plan(model, target="cuda:90").graph
    made = plans_of(graph, [90])[0]
    assert stored(made, "decode-1") == {KEPT.get(name, "f16")}
    assert stored(made, "prefill") == {"f16"}   # whole, for cuBLASLt
    want = models.graph_logits(model.graph, model.checkpoint.source, CASE)[:, : cuda_families.CALLS]
    got = cuda_families.logits(graph, Simulator(made, model.checkpoint.source).run, CASE)
    np.testing.assert_allclose(got, want, rtol=0, atol=16 * 2.0**-10)


@pytest.mark.parametrize("name", [*KEPT, *OTHERS])
def test_integers_and_scales_make_the_weight(name: str, plain: Path, tmp_path: Path) -> None:
    quantise(scheme(name), plain, tmp_path / name)
    model = read_model(tmp_path / name, **models.LIMITS)
    source, seen = model.checkpoint.source, 0
    for op in model.graph.ops:
        if isinstance(op, Linear) and op.loc != "lm_head" and (found := integers(op.weight)):
            q, scale, whole = (materialize(v, source).astype(np.float64) for v in (found.q, found.scale, op.weight))
            zero = materialize(found.zero, source).astype(np.float64) if found.zero else np.zeros_like(scale)
            np.testing.assert_array_equal(q.astype(found.dtype.numpy).astype(np.float64), q)
            assert abs(zero).max() <= 1 << (found.dtype.bits - 1)
            block = np.ones([a // b for a, b in zip(q.shape, scale.shape, strict=True)])
            made = (q - np.kron(zero, block)) * np.kron(scale, block)
            np.testing.assert_allclose(made, whole, rtol=2.0**-10, atol=1e-7)
            seen += 1
    assert seen == 7


@pytest.mark.parametrize(("kind", "dtype"), [("Q4_0", "i4"), ("Q8_0", "i8")])
def test_blocks_of_gguf(kind: str, dtype: str, tmp_path: Path) -> None:
    """Rows of q and k change places there, and those of integers and scales do so alike."""
    file, _ = gguf_files.write(CASE, "LLAMA", (kind,), tmp_path)
    model = read_model(file, dtype="float16", **models.LIMITS)
    graph = plan(model, target="cuda:90").graph
    made = plans_of(graph, [90])[0]
    assert stored(made, "decode-1") == {dtype}
    assert {s.op.group for s in made.phases[0].steps if isinstance(s.op, FusedLinear)} == {32}
    want = models.graph_logits(model.graph, model.checkpoint.source, CASE)[:, : cuda_families.CALLS]
    got = cuda_families.logits(graph, Simulator(made, model.checkpoint.source).run, CASE)
    np.testing.assert_allclose(got, want, rtol=0, atol=16 * 2.0**-10)


@pytest.mark.parametrize(("name", "why"), [
    ("gptq-4-ordered", "each number has a scale of its own, as where groups are of columns in any order (act-order)"),
    ("fp8-blocks-24", "a scale is of 24 elements of a row, but must be of a multiple of 16 of f8e4m3; "
                      "weight is f8e4m3, but must be f16 as x"),
])   # fmt: skip
def test_it_says_why_weights_are_made_whole(name: str, why: str, plain: Path, tmp_path: Path) -> None:
    blocks = Case("blocks", {**CASE.config, "hidden_size": 192}, dtype="float16")
    quantise(scheme(name), plain if name in SCHEMES else models.write(blocks, tmp_path / "plain"), tmp_path / name)
    graph = read_model(tmp_path / name, **models.LIMITS).graph
    linear = next(op for op in graph.ops if isinstance(op, Linear))
    assert weight_only(linear, graph) == Skip(why)


@pytest.mark.parametrize("name", ["packed-4-groups-of-128", "int-8-rows"])
def test_products_of_integers_normalise_in_bf16(name: str, plain: Path, tmp_path: Path) -> None:
    """The output and down projections are made for a norm, which gate and up, and lm_head, read: one is left."""
    quantise(scheme(name), plain, tmp_path / name)
    model = read_model(tmp_path / name, dtype="bfloat16", max_batch_size=16, max_input_len=40, max_seq_len=48)
    graph = plan(model, target="cuda:90").graph
    made = plans_of(graph, [90])[0]
    ops = [s.op for s in made.phases[0].steps if s.op]
    eight, sixteen = ([s.op for s in p.steps if s.op] for p in made.phases if p.phase.name in ("decode-8", "decode-16"))
    for_norms = [sum(op.name == "cuda.linear_for_norm" for op in each) for each in (eight, sixteen)]
    assert for_norms == ([2, 2] if name == "int-8-rows" else [2, 1])   # lm_head has 16 bits
    integers = [op.name for op in ops if "scales" in op.operands]
    assert integers == ["cuda.fused_linear", "cuda.linear_for_norm", "cuda.fused_linear", "cuda.linear_for_norm"]
    assert sum("squares" in op.operands for op in ops) == 2 and sum(op.name == "rms_norm" for op in ops) == 1
    want = models.graph_logits(model.graph, model.checkpoint.source, CASE)[:, : cuda_families.CALLS]
    got = cuda_families.logits(graph, Simulator(made, model.checkpoint.source).run, CASE)
    np.testing.assert_allclose(got, want, rtol=0, atol=16 * 2.0**-7)
