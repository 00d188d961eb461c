"""Quantised directories: every weight is the one that the tool's own code gives, and so are logits."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from family_cases_moe import FAMILY_CASES_MOE
from fuzz import cases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import LIMITS, Case
from quantizers import SCHEMES, quantise

import trtc
from trtc.compiler import read_model
from trtc.errors import TrtcError
from trtc.frontend import Limits, open_checkpoint
from trtc.frontend.weights import Weights
from trtc.ir.graph import Graph
from trtc.ir.materialize import materialize
from trtc.ir.ops import Cast, Mul, Reshape, Sub, Transpose, Unpack, Weight
from trtc.ir.types import f32

torch: Any = import_module("torch")
save: Any = import_module("safetensors.torch").save_file
load: Any = import_module("safetensors.torch").load_file

CASE = Case("quantised", {
    "hidden_size": 64, "intermediate_size": 160, "num_key_value_heads": 2, "num_hidden_layers": 1,
})   # fmt: skip
CLOSE = 5e-5   # what differs is the order of sums alone, as in test_families.py
ABSENT: Any = object()
ROLES = {
    "self_attn.q_proj": "attention.q", "self_attn.k_proj": "attention.k", "self_attn.v_proj": "attention.v",
    "self_attn.o_proj": "attention.dense", "mlp.gate_proj": "mlp.fc", "mlp.up_proj": "mlp.gate",
    "mlp.down_proj": "mlp.proj",
}   # fmt: skip


ENGINES = ("awq", "gptq-4-ordered", "fp8-blocks-cut", "packed-4", "modelopt-nvfp4")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model before it is quantised."""
    return models.write(CASE, tmp_path_factory.mktemp("models") / "plain")


def role_of(key: str) -> str:
    _, _, layer, part = key.removesuffix(".weight").split(".", 3)
    return f"transformer.layers.{layer}.{ROLES[part]}.weight"


@pytest.mark.parametrize("name", SCHEMES)
def test_weights_are_what_the_tool_says_that_they_mean(name: str, plain: Path, tmp_path: Path) -> None:
    meant = quantise(SCHEMES[name], plain, tmp_path / "quantised")
    assert len(meant) == 7
    checkpoint = models.opened(tmp_path / "quantised")
    weights = Weights(checkpoint.source, checkpoint.expression, f32)
    for key, want in meant.items():
        got = materialize(weights(role_of(key), *want.shape), checkpoint.source)
        np.testing.assert_array_max_ulp(got, want.numpy(), 1)


@pytest.mark.parametrize("name", ENGINES)
def test_engines_give_the_logits_of_the_dequantised_model(name: str, plain: Path, tmp_path: Path) -> None:
    meant = quantise(SCHEMES[name], plain, tmp_path / "quantised")
    shutil.copytree(plain, tmp_path / "meant")
    save({**load(plain / "model.safetensors"), **meant}, tmp_path / "meant" / "model.safetensors")
    expected = np.stack(models.fresh_reference(tmp_path / "meant", CASE, "float32"))
    assert expected.std() > 0.3   # words differ, or agreement would say little
    bundle = trtc.compile(tmp_path / "quantised", tmp_path / "engine", target="onnx", **LIMITS)
    np.testing.assert_allclose(models.engine_logits(bundle, CASE), expected, rtol=0, atol=CLOSE)


def test_deepseek_v3_as_it_is_published(tmp_path: Path) -> None:
    """8-bit floats in blocks, of latent attention and of every expert; sizes are no multiple of a block's."""
    case = FAMILY_CASES_MOE["deepseek-v3-groups-yarn"]
    plain = models.write(case, tmp_path / "plain")
    meant = quantise(SCHEMES["fp8-blocks-cut"], plain, tmp_path / "quantised")
    assert sum("experts" in key for key in meant) > 12
    save({**load(plain / "model.safetensors"), **meant}, plain / "model.safetensors")
    expected = np.stack(models.fresh_reference(plain, case, "float32"))
    model = read_model(tmp_path / "quantised", dtype="float32", **LIMITS)
    got = models.graph_logits(model.graph, model.checkpoint.source, case)
    np.testing.assert_allclose(got, expected, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("name", ["awq", "gptq-4-ordered", "fp8-whole", "packed-4", "modelopt-nvfp4", "modelopt-awq"])
@pytest.mark.parametrize("model", ["Mixtral", "Qwen3Moe"])
def test_experts_one_by_one(model: str, name: str, tmp_path: Path) -> None:
    config = {"hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 96, "num_hidden_layers": 1}
    experts = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
    case = Case("quantised-experts", {**config, **experts}, model=model)
    plain = models.write(case, tmp_path / "plain")
    meant = quantise(SCHEMES[name], plain, tmp_path / "quantised")
    assert sum("experts" in key for key in meant) == 12
    checkpoint = models.opened(tmp_path / "quantised")
    weights = Weights(checkpoint.source, checkpoint.expression, f32)
    stem = next(key for key in meant if "experts" in key).partition(".experts.")[0]
    parts = ("w1", "w3", "w2") if model == "Mixtral" else ("gate_proj", "up_proj", "down_proj")
    for role, part in zip(("fc", "gate", "proj"), parts, strict=True):
        want = np.stack([meant[f"{stem}.experts.{n}.{part}.weight"].numpy() for n in range(4)])
        got = materialize(weights(f"transformer.layers.0.mlp.{role}.weight", *want.shape), checkpoint.source)
        np.testing.assert_array_max_ulp(got, want, 1)
    save({**load(plain / "model.safetensors"), **meant}, plain / "model.safetensors")
    expected = np.stack(models.fresh_reference(plain, case, "float32"))
    read = read_model(tmp_path / "quantised", dtype="float32", **LIMITS)
    got = models.graph_logits(read.graph, read.checkpoint.source, case)
    np.testing.assert_allclose(got, expected, rtol=0, atol=CLOSE)


def test_weights_stay_recognisable(plain: Path, tmp_path: Path) -> None:
    """What keeps weights quantised finds its tensors: unpack, subtract the zero, multiply by the scale."""
    quantise(SCHEMES["gptq-4"], plain, tmp_path / "quantised")
    checkpoint = models.opened(tmp_path / "quantised")
    weight = Weights(checkpoint.source, checkpoint.expression, f32)("transformer.layers.0.mlp.fc.weight", 160, 64)
    stem = "model.layers.0.mlp.gate_proj"
    match weight:
        case Reshape(Mul(Sub(Cast(Reshape(Unpack(Transpose(Weight(q)), 4))), _), Cast(Reshape(Transpose(Weight(s)))))):
            assert (q, s) == (f"{stem}.qweight", f"{stem}.scales")
        case _:
            pytest.fail(str(Graph("g", (), {"weight": weight}, {})))


def test_a_model_whose_cache_alone_is_quantised(plain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(plain, folder)
    text = json.dumps({"quantization": {"quant_algo": None, "kv_cache_quant_algo": "FP8"}})
    (folder / "hf_quant_config.json").write_text(text)
    limits = Limits(2, 8, 16)
    assert str(open_checkpoint(folder).graph(limits, f32)) == str(open_checkpoint(plain).graph(limits, f32))


Changes = dict[str, Any]
Q = "model.layers.0.self_attn.q_proj"
ROLE = "transformer.layers.0.attention.q.weight"
OTHER = "help: the tensors and the config are of different models"
ERRORS: list[tuple[str, Changes, Changes, str]] = [
    ("awq", {"quant_method": ABSENT}, {}, "config.json: quantization_config.quant_method is missing"),
    ("awq", {"quant_method": "bitsandbytes"}, {}, (
        'config.json: quantization_config.quant_method is "bitsandbytes", but must be one of awq, gptq, fp8, '
        "compressed-tensors, modelopt, modelopt_fp4"
    )),
    ("awq", {"bits": 8}, {}, "config.json: quantization_config.bits is 8, but must be 4"),
    ("awq", {"version": "gemv"}, {}, (
        'config.json: quantization_config.version is "gemv", but must be gemm\n'
        "  = help: quantise the model with version GEMM"
    )),
    ("awq", {"group_size": 0}, {}, (
        "config.json: quantization_config.group_size is 0, but must be at least 1, or -1 for all columns"
    )),
    ("awq", {"group_size": 48}, {}, (
        f"config.json: quantization_config.group_size is 48, but must be a divisor of 64, the columns of {Q}"
    )),
    ("awq", {}, {"qzeros": ABSENT}, (
        f"tensor {Q}.qzeros is missing from model.safetensors\n  = help: did you mean `{Q.replace('q_', 'v_')}.qzeros`?"
    )),
    ("awq", {"group_size": 16}, {}, (
        f"tensor {Q}.qzeros is i32[2, 8], but the config asks for i32[4, 8]\n  = it is {ROLE}\n  = {OTHER}"
    )),
    ("awq", {}, {"qweight": np.zeros((64, 8), np.int8)}, (
        f"tensor {Q}.qweight is i8[64, 8], but must be i32\n  = it is {ROLE}"
    )),
    ("gptq-4", {"bits": 5}, {}, "config.json: quantization_config.bits is 5, but must be one of 2, 3, 4, 8"),
    ("gptq-4", {"checkpoint_format": "marlin"}, {}, (
        'config.json: quantization_config.checkpoint_format is "marlin", but must be one of gptq, gptq_v2'
    )),
    ("gptq-4", {"group_size": -2}, {}, (
        "config.json: quantization_config.group_size is -2, but must be at least 1, or -1 for all columns"
    )),
    ("gptq-4", {"dynamic": {"+:.*down.*": {"bits": 8}}}, {}, (
        'config.json: quantization_config.dynamic is {"+:.*down.*": {"bits": 8}}, '
        "but must be absent: one format for all layers"
    )),
    ("gptq-4-ordered", {}, {"g_idx": ABSENT}, (
        f"tensor {Q}.g_idx is missing from model.safetensors\n"
        f"  = help: did you mean `{Q.replace('q_', 'v_')}.g_idx`?"
    )),
    ("fp8-blocks", {"fmt": "e5m2"}, {}, 'config.json: quantization_config.fmt is "e5m2", but must be one of e4m3'),
    ("fp8-blocks", {"weight_block_size": [16]}, {}, (
        "config.json: quantization_config.weight_block_size is [16], "
        "but must be a list of the rows and the columns of a block"
    )),
    ("fp8-blocks", {"weight_block_size": None}, {"weight_scale_inv": np.ones((3, 2), np.float32)}, (
        f"tensor {Q}.weight_scale_inv is f32[3, 2], but must be scales of rows, of groups or of blocks of [64, 64]"
    )),
    ("packed-4", {"format": "marlin-24"}, {}, (
        'config.json: quantization_config.format is "marlin-24", but must be one of pack-quantized, int-quantized, '
        "float-quantized, naive-quantized, nvfp4-pack-quantized, mixed-precision, dense"
    )),
    ("packed-4", {"sparsity_config": {"format": "sparse-24-bitmask"}}, {}, (
        'config.json: quantization_config.sparsity_config is {"format": "sparse-24-bitmask"}, '
        "but must be absent: weights must be dense and as they are"
    )),
    ("packed-4", {}, {"weight_packed": np.zeros((64, 6), np.int32)}, (
        f"tensor {Q}.weight_packed is i32[64, 6], but must be [64, 64 * bits / 32], with 2, 4 or 8 bits"
    )),
    ("modelopt-awq", {"quant_algo": "W4A16_QWA"}, {}, (
        'config.json: quantization_config.quant_algo is "W4A16_QWA", but must be one of FP8, '
        "FP8_PER_CHANNEL_PER_TOKEN, FP8_PB_WO, fp8_pb_wo, NVFP4, NVFP4_AWQ, W4A16_AWQ, W4A8_AWQ, "
        "W8A8_SQ_PER_CHANNEL, W8A16, MIXED_PRECISION\n  = help: did you mean `W4A16_AWQ`?"
    )),
    ("modelopt-awq", {}, {"weight": np.zeros((64, 64), np.uint8)}, (
        f"tensor {Q}.weight is u8[64, 64], but the config asks for u8[32, 64]\n  = it is {ROLE}\n  = {OTHER}"
    )),
]   # fmt: skip


def change(folder: Path, config: Changes, tensors: Changes) -> None:
    stated = json.loads((folder / "config.json").read_text())
    inner = {**stated["quantization_config"], **config}
    stated["quantization_config"] = {k: v for k, v in inner.items() if v is not ABSENT}
    (folder / "config.json").write_text(json.dumps(stated))
    new = {f"{Q}.{name}": value if value is ABSENT else torch.as_tensor(value) for name, value in tensors.items()}
    kept = {**load(folder / "model.safetensors"), **new}
    save({k: v for k, v in kept.items() if v is not ABSENT}, folder / "model.safetensors")


@pytest.mark.parametrize(("name", "config", "tensors", "message"), ERRORS)
def test_errors(name: str, config: Changes, tensors: Changes, message: str, plain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "quantised"
    quantise(SCHEMES[name], plain, folder)
    change(folder, config, tensors)
    with pytest.raises(TrtcError) as error:
        open_checkpoint(folder).graph(Limits(2, 8, 16), f32)
    assert str(error.value) == f"error: {message}"


def test_a_group_that_is_not_there(plain: Path, tmp_path: Path) -> None:
    """Which only the bytes show, when the weight is made."""
    folder = tmp_path / "quantised"
    quantise(SCHEMES["gptq-4-ordered"], plain, folder)
    change(folder, {}, {"g_idx": np.full(64, 2, np.int32)})
    checkpoint = models.opened(folder)
    weight = Weights(checkpoint.source, checkpoint.expression, f32)(ROLE, 64, 64)
    with pytest.raises(TrtcError) as error:
        materialize(weight, checkpoint.source)
    assert str(error.value) == "error: gather: an index is 2, but must be in 0..1"


FUZZED = ("awq", "gptq-4-ordered", "fp8-blocks-cut", "packed-4", "packed-nvfp4", "modelopt-awq", "modelopt-nvfp4")
anything = st.none() | st.booleans() | st.integers(-2, 200) | st.integers() | st.text(max_size=3) | st.just([7, 9])
CONFIG = [
    "bits", "group_size", "version", "desc_act", "checkpoint_format", "weight_block_size", "format", "config_groups",
    "quant_algo", "fmt", "sparsity_config",
]   # fmt: skip
TENSORS = [
    "qweight", "qzeros", "scales", "g_idx", "weight", "weight_scale", "weight_scale_inv", "weight_packed",
    "weight_zero_point", "weight_scale_2", "weight_global_scale", "pre_quant_scale", "weight_g_idx",
]   # fmt: skip
shapes = st.lists(st.sampled_from([0, 1, 2, 4, 8, 16, 32, 63, 64]), max_size=3)
dtypes = st.sampled_from([torch.int32, torch.uint8, torch.int8, torch.float32, torch.float8_e4m3fn, torch.float16])


def ones(shape: list[int], dtype: Any) -> Any:
    return torch.ones(shape).to(dtype)


changed = st.builds(ones, shapes, dtypes)


@pytest.mark.parametrize("name", FUZZED)
def test_any_config_and_tensors_are_taken_or_refused(name: str, plain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "quantised"
    quantise(SCHEMES[name], plain, folder)
    good = {name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors")}

    @settings(max_examples=cases(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        st.dictionaries(st.sampled_from(CONFIG), anything, max_size=3),
        st.dictionaries(st.sampled_from(TENSORS), st.just(ABSENT) | changed, max_size=3),
    )
    def property(config: Changes, tensors: Changes) -> None:
        for file, content in good.items():
            (folder / file).write_bytes(content)
        change(folder, config, tensors)
        try:
            checkpoint = models.opened(folder)
            weight = Weights(checkpoint.source, checkpoint.expression, f32)(ROLE, 64, 64)
            assert materialize(weight, checkpoint.source).shape == (64, 64)
        except TrtcError:
            pass

    property()
