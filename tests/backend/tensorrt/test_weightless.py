"""Plans without weights: really built, one for every checkpoint of a shape, and what they mean with weights fed."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorrt_rtx_bindings")

from tensorrt_evaluator import kernels, network_of
from tensorrt_models import BASE, Model, caches, model, step

from trtc.backend.bundle import bundle
from trtc.backend.tensorrt.build import build
from trtc.backend.tensorrt.options import Options
from trtc.backend.tensorrt.target import tensorrt_rtx
from trtc.backend.tensorrt.weightless import CODES, without_weights
from trtc.ir import Array, DType, bf16, f16
from trtc.ir.ops import Weight
from trtc.ir.types import DTYPES

TOLERANCE = 2e-5   # both sides compute in f32 on the same narrow weights; logits are about 1


def tensors_of(raw: bytes) -> dict[str, Array]:
    """What a safetensors file holds, as that library reads it."""
    library: Any = import_module("safetensors")
    kinds = {code: DTYPES[name].numpy for name, code in CODES.items()}
    return {
        name: np.frombuffer(bytes(entry["data"]), kinds[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in library.deserialize(raw)
    }


def built(made: Model, out: Path) -> tuple[bytes, dict[str, Any], dict[str, Array]]:
    """The plan, what engine.json says of it, and the tensors in the file beside it, by input."""
    with bundle(out, 0) as writer:
        target, options = tensorrt_rtx(""), Options(weightless=True)
        said = build(made.lowered, made.tensors, writer, "rank0", target=target, options=options)
        assert list(writer.files) == ["rank0/weights.safetensors", "rank0/model.plan"]
    tensors = tensors_of((out / said["weights"]["file"]).read_bytes())
    return (out / said["engine"]).read_bytes(), said, {i: tensors[t] for i, t in said["weights"]["tensors"].items()}


@pytest.mark.parametrize("dtype", [f16, bf16], ids=str)
def test_with_its_weights_fed_the_network_means_what_the_graph_means(dtype: DType, tmp_path: Path) -> None:
    made = model(BASE, dtype)
    plan, said, fed = built(made, tmp_path / "engine")
    assert any("_mha_" in name for name in kernels(plan))
    assert said["weights"]["use"] == "inputs"
    assert [i["name"] for i in said["inputs"]] == [i.key for i in made.lowered.inputs]   # a step's, as ever
    network = network_of(without_weights(made.lowered), {}, rounds=False)
    assert not set(fed) & {op.key for op in without_weights(made.lowered).ops if isinstance(op, Weight)}
    wide = {name: array.astype(np.float32) for name, array in fed.items()}
    past, lengths, random = np.zeros(3, int), np.array([9, 4, 1]), np.random.default_rng(2)
    theirs, ours = caches(made.plain, 3), caches(made.plain, 3)
    for call in range(3):   # prefill of a ragged batch, then decode
        ids = random.integers(0, BASE.vocab_size, (3, int(lengths.max())))
        want = made.plain.evaluate({**made.tensors, **step(ids, lengths, past), **theirs})
        got = network({**step(ids, lengths, past), **ours, **wide})
        np.testing.assert_allclose(got["logits"], want["logits"], rtol=0, atol=TOLERANCE, err_msg=f"call {call}")
        theirs, ours = {k: want[k] for k in theirs}, {k: got[f"{k}.next"] for k in ours}
        past, lengths = past + lengths, np.ones(3, int)


def test_the_plan_holds_no_weights_and_serves_every_checkpoint_of_its_shape(tmp_path: Path) -> None:
    first, other = model(BASE, f16), model(BASE, f16, seed=1)
    plan, _, fed = built(first, tmp_path / "a")
    again, _, fed_other = built(other, tmp_path / "b")
    assert len(plan) == len(again)
    for name, array in fed.items():
        if array.ndim == 2:   # of which no part lies in the plan
            assert array[:2].tobytes() not in plan
            assert not np.array_equal(array, fed_other[name])


def test_the_file_holds_the_weights_in_order_of_use(tmp_path: Path) -> None:
    made = model(BASE, f16)
    _, said, fed = built(made, tmp_path / "engine")
    raw = (tmp_path / "engine" / said["weights"]["file"]).read_bytes()
    places = [raw.index(array.tobytes()) for array in fed.values() if array.ndim == 2]
    assert places == sorted(places)
    names = list(fed)
    assert names[0] == "transformer.vocab_embedding.table" and names[-1] == "lm_head.weight"
    merged = [made.tensors[f"transformer.layers.0.attention.{part}.weight"] for part in "qkv"]
    np.testing.assert_array_equal(fed["transformer.layers.0.attention.q_k_v.weight"], np.concatenate(merged))
