"""Every family as a launch plan: what the plan computes, byte by byte as its JSON says, is what the graph means."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_families import meant, planned, simulated
from models import KNOWN, Case, every

STEP = {"float16": 2.0**-10, "bfloat16": 2.0**-7}   # between the numbers of a type, at 1


@every(KNOWN)
def test_a_plan_computes_what_the_graph_means(case: Case) -> None:
    """Prefill of a ragged batch, then decode steps, in f32: logits are about 1."""
    np.testing.assert_allclose(simulated(case.name), meant(case.name), rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["gqa-tied-head16", "gemma2", "mixtral", "deepseek-v2-lite", "phi3-window5", "yarn"])
@pytest.mark.parametrize("dtype", STEP)
def test_so_it_does_in_16_bits(name: str, dtype: str) -> None:
    """Fused ops round less often than the plain ones do, so results differ by a few steps of the type."""
    np.testing.assert_allclose(simulated(name, dtype), meant(name, dtype), rtol=0, atol=16 * STEP[dtype])


@pytest.mark.parametrize("name", ["mha", "qwen2", "gemma-mqa", "internlm2-gqa", "mistral-no-window-head16"])
def test_a_llama_like_layer_takes_eight_launches(name: str) -> None:
    """norm, q+k+v, rope and append, attention, o and residual, norm, gated product, down and residual."""
    _, graph, plan = planned(name)
    layers = sum(i.key.endswith("key_cache") for i in graph.inputs)
    decode = next(p for p in plan.phases if p.phase.name == "decode-1")
    names = [s.op.name for s in decode.steps if s.op and ".layers.0." in s.loc and s.op.name != "add"]
    assert names == [
        "rms_norm", "linear", "cuda.rope_and_append", "cuda.decode_attention", "cuda.fused_linear", "rms_norm",
        "cuda.fused_linear", "cuda.fused_linear",
    ]   # fmt: skip
    assert len(decode.steps) <= 8 * layers + 9


@pytest.mark.parametrize("name", ["yarn", "stablelm-head64", "llama3-head64-old"])
def test_where_tensor_cores_attend_rope_and_append_is_no_launch(name: str) -> None:
    _, graph, plan = planned(name, "bfloat16")
    layers = sum(i.key.endswith("key_cache") for i in graph.inputs)
    for phase in plan.phases[:-1]:
        names = [s.op.name for s in phase.steps if s.op and s.op.name.endswith(("append", "attend", "attention"))]
        assert names == ["cuda.append_and_attend"] * layers


def test_in_bf16_only_the_first_norm_is_a_launch() -> None:
    """Then a layer has five: q+k+v, attention, o and residual, gated product, down and residual."""
    _, graph, plan = planned("yarn", "bfloat16")
    layers = sum(i.key.endswith("key_cache") for i in graph.inputs)
    layer = ["append_and_attend", "linear_for_norm", "fused_linear", "linear_for_norm"]
    first = ["embedding", "rms_norm", "linear", *layer]
    for phase in plan.phases[:-1]:
        names = [s.op.name.removeprefix("cuda.") for s in phase.steps if s.op]
        assert names[:-5] == [*first, *["fused_linear", *layer] * (layers - 1), "fused_linear"]
        assert names[-5:] == ["top_k", "cast", "gather", "slice", "add"]
    assert not any(s.op and s.op.name == "cuda.linear_for_norm" for s in plan.phases[-1].steps)
