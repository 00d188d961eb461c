"""Checkpoints of every family: graphs and engines give transformers' logits."""

from __future__ import annotations

import shutil
from importlib import import_module
from pathlib import Path

import models
import numpy as np
import pytest
from family_cases import FAMILY_CASES
from family_cases_moe import FAMILY_CASES_MOE
from family_cases_new import FAMILY_CASES_NEW
from models import LIMITS, Case

import trtc
from trtc.backend.onnx.ops import GroupQueryAttention, MoE
from trtc.compiler import plan, read_model
from trtc.frontend import DTYPES, FAMILIES, Limits
from trtc.frontend.config import DecoderConfig
from trtc.ir import parse
from trtc.ir.ops import Attention
from trtc.passes import Pipeline

# As in test_llama.py: the oracle rounds the weights and computes in f32, as the engines do; only sums differ in order.
CLOSE = 5e-5
EVERY = {**FAMILY_CASES, **FAMILY_CASES_NEW, **FAMILY_CASES_MOE}
every_case = models.every(EVERY)


def expected(case: Case, dtype: str) -> models.Floats:
    logits = np.stack(models.reference(models.checkpoint(case.name), case, dtype))
    assert 0.2 < logits.std() < 2   # words differ, or agreement would say little
    return logits


@every_case
def test_graphs_give_the_logits_of_transformers(case: Case) -> None:
    model = read_model(models.checkpoint(case.name), dtype="float32", **LIMITS)
    got = models.graph_logits(model.graph, model.checkpoint.source, case)
    np.testing.assert_allclose(got, expected(case, "float32"), rtol=0, atol=CLOSE)


@every_case
def test_engines_give_the_logits_of_transformers(case: Case, tmp_path: Path) -> None:
    """In the element type of the checkpoint, of which each family has several; kernels attend in every layer."""
    folder = models.checkpoint(case.name)
    bundle = trtc.compile(folder, tmp_path / "engine", target="onnx", dtype=case.dtype, **LIMITS)
    got = models.engine_logits(bundle, case)
    np.testing.assert_allclose(got, expected(case, case.dtype), rtol=0, atol=CLOSE)
    config = models.opened(folder).config
    if config.head_dim == config.value_head_dim and config.head_dim % 8 == 0:   # what ONNX Runtime's kernel takes
        graph = parse((bundle.path / "graph.trtc").read_text())
        assert [op.window for op in graph.ops if isinstance(op, GroupQueryAttention)] == windows(config)


@every_case
def test_every_layer_is_one_attention(case: Case) -> None:
    checkpoint = models.opened(models.checkpoint(case.name))
    config = checkpoint.config
    fused = Pipeline.parse("fuse").run(checkpoint.graph(Limits(4, 40, 48), DTYPES[case.dtype]))
    found = [op for op in fused.ops if isinstance(op, Attention)]
    assert [op.window for op in found] == windows(config) and all(op.causal and op.mask is None for op in found)
    assert {op.softcap for op in found} == {config.attention_softcap}


def windows(config: DecoderConfig) -> list[int]:
    return [*config.windows] or [0] * config.num_hidden_layers


def test_every_layer_with_experts_has_them_in_one_op() -> None:
    for case in FAMILY_CASES_MOE.values():
        model = read_model(models.checkpoint(case.name), **LIMITS)
        config = model.checkpoint.config
        assert isinstance(config, DecoderConfig)
        layers = config.moe.layers if config.moe else ()
        kernels = [op for op in plan(model, target="onnx").graph.ops if isinstance(op, MoE)]
        assert [op.loc for op in kernels] == [f"transformer.layers.{n}.mlp" for n in layers] and layers


def test_engines_say_that_values_have_heads_of_another_size(tmp_path: Path) -> None:
    folder = models.checkpoint("deepseek-v3-groups-yarn")
    bundle = trtc.compile(folder, tmp_path / "engine", target="onnx", dtype="bfloat16", **LIMITS)
    cache, caches = bundle.cache, {t.name: t.shape for t in bundle.ranks[0].inputs if t.name.endswith("_cache")}
    assert caches["layers.0.key_cache"] == ("B", 4, "M", 12) and caches["layers.1.value_cache"] == ("B", 4, "M", 6)
    assert (cache.kv_heads, cache.head_size, cache.value_head_size) == (4, 12, 6)
    assert cache.bytes_per_token == 2 * 4 * (12 + 6) * 4   # layers, heads, elements, bytes of f32


@pytest.mark.parametrize(("name", "prefix"), [("gpt2", "transformer."), ("bloom", "transformer."), ("opt", "model.")])
def test_checkpoints_of_the_model_without_its_head(name: str, prefix: str, tmp_path: Path) -> None:
    """As GPT-2, BLOOM and the first OPT are published: keys have no prefix, and the head is the embedding."""
    folder = shutil.copytree(models.checkpoint(name), tmp_path / "model")
    file, torch = folder / "model.safetensors", import_module("safetensors.torch")
    bare = {key.removeprefix(prefix): tensor for key, tensor in torch.load_file(file).items()}
    assert not any(key.startswith(prefix) for key in bare)
    torch.save_file(bare, file)
    model, case = read_model(folder, dtype="float32", **LIMITS), FAMILY_CASES[name]
    got = models.graph_logits(model.graph, model.checkpoint.source, case)
    np.testing.assert_allclose(got, expected(case, "float32"), rtol=0, atol=CLOSE)


def test_every_family_is_tested_twice_at_least() -> None:
    tested = [FAMILIES[case.architecture].name for case in EVERY.values()]
    elsewhere = {"LLaMA 1, 2, 3", "Baichuan 1, 2"}   # test_llama.py, test_baichuan.py
    assert set(tested) == {family.name for family in FAMILIES.values()} - elsewhere
    assert all(tested.count(name) >= 2 for name in tested)
