"""Baichuan, which transformers does not have: logits are those of the papers' formulas, written out in NumPy.

Baichuan 2: Yang et al., 2023, arXiv:2309.10305, §2 (SwiGLU, RMSNorm before blocks, RoPE in 7B, ALiBi in 13B, NormHead).
RoPE: Su et al., 2021, arXiv:2104.09864. ALiBi: Press et al., 2021, arXiv:2108.12409. Keys as in the published files.
"""

from __future__ import annotations

import json
import math
from importlib import import_module
from pathlib import Path
from typing import Any

import ml_dtypes
import models
import numpy as np
import numpy.typing as npt
import pytest
from models import LIMITS, Case
from tensorrt_evaluator import build_plan, kernels, network_of
from tensorrt_families import logits

import trtc
from trtc.compiler import plan, read_model
from trtc.ir.ops import Attention
from trtc.passes import Pipeline

Array = npt.NDArray[Any]
save: Any = import_module("safetensors.numpy").save_file
CONFIG: dict[str, Any] = {
    "architectures": ["BaichuanForCausalLM"], "model_type": "baichuan", "hidden_act": "silu", "hidden_size": 32,
    "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2, "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False, "vocab_size": 97, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}   # fmt: skip
SEVEN, THIRTEEN = {"max_position_embeddings": 64}, {"model_max_length": 64}
CASES = (
    Case("baichuan1-7b", {**SEVEN, "architectures": ["BaiChuanForCausalLM"]}, lengths=(11, 1, 4)),
    Case("baichuan1-13b-6-heads", {**THIRTEEN, "num_attention_heads": 6, "hidden_size": 60}, lengths=(3, 9)),
    Case("baichuan2-7b", {**SEVEN, **THIRTEEN, "z_loss_weight": 0, "hidden_size": 64}, dtype="float16", lengths=(3, 9)),
    Case("baichuan2-13b", {**THIRTEEN, "z_loss_weight": 0}, dtype="bfloat16", lengths=(11, 1, 4)),
)   # fmt: skip
NUMPY: dict[str, Any] = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
CLOSE = 5e-5   # as in test_families.py
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def tensors(config: dict[str, Any]) -> dict[str, Array]:
    """Random weights that keep activations near 1."""
    random = np.random.default_rng(5)
    hidden, inner, words = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    shapes = {"model.embed_tokens": (words, hidden), "model.norm": (hidden,), "lm_head": (words, hidden)}
    for n in range(config["num_hidden_layers"]):
        for name, shape in {
            "self_attn.W_pack": (3 * hidden, hidden), "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner),
            "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
        }.items():   # fmt: skip
            shapes[f"model.layers.{n}.{name}"] = shape
    made: dict[str, Array] = {}
    for name, shape in shapes.items():
        noise = random.standard_normal(shape).astype(np.float32)
        made[f"{name}.weight"] = 1 + noise / 4 if len(shape) == 1 else noise * 1.5 / np.sqrt(shape[1])
    return {name: array.astype(np.float32) for name, array in made.items()}


@pytest.fixture
def folder(case: Case, tmp_path: Path) -> Path:
    """The case's checkpoint."""
    config = {**CONFIG, **case.config, "torch_dtype": case.dtype}
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    save({k: v.astype(NUMPY[case.dtype]) for k, v in tensors(config).items()}, path / "model.safetensors")
    return path


def expected(case: Case, dtype: str) -> Array:
    """Logits [sequence, call, word]; weights are rounded to the stored type and to ``dtype``, arithmetic is in f64."""
    config = {**CONFIG, **case.config}
    stored = {k: v.astype(NUMPY[case.dtype]).astype(np.float32) for k, v in tensors(config).items()}
    if "z_loss_weight" in config:
        stored["lm_head.weight"] /= np.linalg.norm(stored["lm_head.weight"], axis=1, keepdims=True)
    weights = {k: v.astype(NUMPY[dtype]).astype(np.float64) for k, v in stored.items()}
    sequences = zip(models.tokens(case), case.lengths, strict=True)
    return np.stack([all_logits(config, weights, ids)[length - 1 :] for ids, length in sequences])


def all_logits(config: dict[str, Any], w: dict[str, Array], ids: Array) -> Array:
    """Logits after each token of one sequence."""
    heads = config["num_attention_heads"]
    size = config["hidden_size"] // heads
    x = w["model.embed_tokens.weight"][ids]
    for n in range(config["num_hidden_layers"]):
        at = f"model.layers.{n}."
        packed = rms(x, w[f"{at}input_layernorm.weight"]) @ w[f"{at}self_attn.W_pack.weight"].T
        q, k, v = (part.reshape(len(ids), heads, size).swapaxes(0, 1) for part in np.split(packed, 3, 1))
        bias = np.zeros((heads, 1, 1))
        place = np.arange(len(ids))
        if "max_position_embeddings" in config:
            q, k = rotated(q), rotated(k)
        else:
            bias = slopes(heads)[:, None, None] * (place - place[:, None])
        scores = np.where(place <= place[:, None], q @ k.swapaxes(1, 2) / math.sqrt(size) + bias, -np.inf)
        chosen = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (chosen / chosen.sum(-1, keepdims=True) @ v).swapaxes(0, 1).reshape(len(ids), -1)
        x = x + mixed @ w[f"{at}self_attn.o_proj.weight"].T
        read = rms(x, w[f"{at}post_attention_layernorm.weight"])
        gate, up = (read @ w[f"{at}mlp.{part}_proj.weight"].T for part in ("gate", "up"))
        x = x + gate / (1 + np.exp(-gate)) * up @ w[f"{at}mlp.down_proj.weight"].T
    return rms(x, w["model.norm.weight"]) @ w["lm_head.weight"].T


def rms(x: Array, gain: Array) -> Array:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + CONFIG["rms_norm_eps"]) * gain


def rotated(x: Array) -> Array:
    """Element i of the first half of each head and element i of the second are a complex number, and turn."""
    half = x.shape[2] // 2
    pairs = np.linspace(0, 1, half, endpoint=False)
    angle: Array = np.outer(np.arange(len(x[0])), 10000.0**-pairs)
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)
    return np.concatenate([turned.real, turned.imag], -1)


def slopes(heads: int) -> Array:
    """The sequence of the ALiBi paper, appendix: where heads are no power of two, half steps are put behind."""
    if math.log2(heads).is_integer():
        return 2.0 ** (-8 * np.arange(1, heads + 1) / heads)
    lower = 2 ** math.floor(math.log2(heads))
    return np.concatenate([slopes(lower), slopes(2 * lower)[::2][: heads - lower]])


@every_case
def test_graphs_give_the_logits_of_the_papers(case: Case, folder: Path) -> None:
    model = read_model(folder, dtype="float32", **LIMITS)
    want = expected(case, "float32")
    assert 0.2 < want.std() < 3   # words differ, or agreement would say little
    got = models.graph_logits(model.graph, model.checkpoint.source, case)
    np.testing.assert_allclose(got, want, rtol=0, atol=CLOSE)
    fused = [op for op in Pipeline.parse("fuse").run(model.graph).ops if isinstance(op, Attention)]
    assert [op.slopes is None for op in fused] == ["max_position_embeddings" in case.config] * 2


@every_case
def test_plans_of_rtx_are_built_and_give_the_logits_of_the_papers(case: Case, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    for dtype in ("float16", "bfloat16"):
        model = read_model(folder, dtype=dtype, **LIMITS)
        graph, source = plan(model, target="tensorrt-rtx").graph, model.checkpoint.source
        got = logits(network_of(graph, source, rounds=False), case)
        np.testing.assert_allclose(got, expected(case, dtype)[:, : got.shape[1]], rtol=0, atol=CLOSE)
        assert any("_mha_" in name for name in kernels(build_plan(graph, source, tmp_path / dtype)[0]))


@every_case
def test_engines_give_the_logits_of_the_papers(case: Case, folder: Path, tmp_path: Path) -> None:
    bundle = trtc.compile(folder, tmp_path / "engine", target="onnx", dtype=case.dtype, **LIMITS)
    np.testing.assert_allclose(models.engine_logits(bundle, case), expected(case, case.dtype), rtol=0, atol=CLOSE)
