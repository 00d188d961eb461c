"""Quantised rank files: weights are what the format's description says that their tensors mean, and so are logits."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from fuzz import cases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import LIMITS
from rank_files import CASE, name_of, quantise, weight
from rank_quantizers import SCHEMES, Tensors

import trtc
from trtc.errors import TrtcError
from trtc.frontend import Limits, open_checkpoint
from trtc.frontend.trtllm.schemes import SCHEMES as SCHEMES_READ
from trtc.ir.types import f32

torch: Any = import_module("torch")
save: Any = import_module("safetensors.torch").save_file
ABSENT: Any = object()

CLOSE = 5e-5   # what differs is the order of sums alone, as in test_families.py


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model before it is quantised."""
    return models.write(CASE, tmp_path_factory.mktemp("models") / "plain")


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("name", SCHEMES)
def test_weights_are_what_the_format_says_that_they_mean(name: str, tp: int, plain: Path, tmp_path: Path) -> None:
    meant = quantise(SCHEMES[name], plain, tmp_path / "ranks", tp)
    for key, want in meant.items():
        np.testing.assert_array_max_ulp(weight(tmp_path / "ranks", name_of(key), *want.shape), want, SCHEMES[name].ulps)


def test_an_engine_gives_the_logits_of_the_dequantised_model(plain: Path, tmp_path: Path) -> None:
    meant = quantise(SCHEMES["awq"], plain, tmp_path / "ranks", 2)
    shutil.copytree(plain, tmp_path / "meant")
    save({key: torch.from_numpy(w.copy()) for key, w in meant.items()}, tmp_path / "meant/model.safetensors")
    expected = np.stack(models.fresh_reference(tmp_path / "meant", CASE, "float32"))
    assert expected.std() > 0.3   # words differ, or agreement would say little
    bundle = trtc.compile(tmp_path / "ranks", tmp_path / "engine", target="onnx", **LIMITS)
    np.testing.assert_allclose(models.engine_logits(bundle, CASE), expected, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("source", ["auto", "modelopt", "trtllm"])
def test_conversion_gives_a_plain_checkpoint(source: str, plain: Path, tmp_path: Path) -> None:
    meant = quantise(SCHEMES["int8"], plain, tmp_path / "ranks", 2)
    trtc.convert(tmp_path / "ranks", tmp_path / "plain", source=source)
    config = json.loads((tmp_path / "plain/config.json").read_text())
    assert config["quantization"]["quant_algo"] is None and config["dtype"] == "float32"
    tensors = models.torch_tensors(tmp_path / "plain/rank0.safetensors")
    assert not any("scal" in key for key in tensors)
    w = tensors["transformer.layers.1.mlp.proj.weight"].numpy()
    np.testing.assert_array_max_ulp(w, meant["model.layers.1.mlp.down_proj.weight"], 1)


DENSE, ROLE = "transformer.layers.0.attention.dense", "transformer.layers.0.attention.dense.weight"
T = f"tensor rank0/{DENSE}"
OTHER = "help: the tensors and the config are of different models"
PLAINLY = "help: convert the model without quantization"
ERRORS: list[tuple[str, dict[str, Any], Tensors, str]] = [
    ("fp8", {"quant_algo": "W4A16_MXFP4"}, {}, (
        "config.json: quantization.quant_algo is W4A16_MXFP4, but must be null or one of FP8, "
        "FP8_PER_CHANNEL_PER_TOKEN, FP8_BLOCK_SCALES, W8A8_SQ_PER_CHANNEL, W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN, "
        "W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN, W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN, W8A8_SQ_PER_TENSOR_PLUGIN, "
        "W4A16_AWQ, W4A8_AWQ, W4A16_GPTQ, W8A16_GPTQ, NVFP4, NVFP4_AWQ, W4A8_QSERVE_PER_CHANNEL, "
        f"W4A8_QSERVE_PER_GROUP, W8A16, W4A16\n  = {PLAINLY}"
    )),
    ("fp8", {"exclude_modules": ["lm_head", "*.attention.dense"]}, {}, (   # what is excluded must be as it is
        f"{T}.weight is f8e4m3[64, 64], but must be one of f32, f16, bf16\n  = it is {ROLE}"
    )),
    ("fp8", {"exclude_modules": "lm_head"}, {}, (
        'config.json: quantization.exclude_modules is "lm_head", but must be a list or null'
    )),
    ("nvfp4", {}, {"weights_scaling_factor": np.ones((64, 4), np.float32)}, (
        f"{T}.weights_scaling_factor is f32[64, 4], but must be one of f8e4m3, i8\n  = it is {ROLE}"
    )),
    ("gptq-4", {}, {"zero": ABSENT}, (
        f"{T}.zero is missing from rank0.safetensors\n  = help: did you mean `rank0/{ROLE}`?"
    )),
    ("gptq-4", {}, {"weight": np.ones((64, 16), np.float16)}, (   # words called floats, as the original's scripts wrote
        f"{T}.weight is f16[64, 16], but must be i8[64, 32]: the integers of W4A16_GPTQ are in an order that depends "
        f"on the GPU\n  = {PLAINLY}"
    )),
    ("gptq-4", {"group_size": 48}, {}, (
        f"tensor rank0/{DENSE.replace('dense', 'qkv')}.weight is i8[64, 64], but must be of a multiple of "
        "group_size, 48, columns in all, not 64"
    )),
    ("smooth-quant-rows", {}, {"per_channel_scale": np.ones((1, 1), np.float32)}, (
        f"{T}.per_channel_scale is f32[1, 1], but the config asks for f32[1, 64]\n  = it is {ROLE}\n  = {OTHER}"
    )),
    ("smooth-quant", {}, {"act_scale": ABSENT}, (
        f"{T}.act_scale is missing from rank0.safetensors\n"
        f"  = help: did you mean `rank0/{DENSE.replace('dense', 'qkv')}.act_scale`?"
    )),
    ("qserve-groups", {"group_size": 48}, {}, (
        f"tensor rank0/{DENSE.replace('dense', 'qkv')}.weight is i8[128, 32], but must be of a multiple of "
        "group_size, 48, columns in all, not 64"
    )),
    ("fp8", {}, {"weights_scaling_factor": ABSENT}, (
        f"{T}.weights_scaling_factor is missing from rank0.safetensors\n"
        f"  = help: did you mean `rank0/{DENSE.replace('dense', 'qkv')}.weights_scaling_factor`?"
    )),
    ("fp8", {}, {"weights_scaling_factor": np.ones(64, np.float32)}, (
        f"{T}.weights_scaling_factor is f32[64], but the config asks for f32[1]\n  = it is {ROLE}\n  = {OTHER}"
    )),
    ("fp8", {}, {"weight": np.zeros((64, 64), np.uint8)}, (
        f"{T}.weight is u8[64, 64], but must be one of f8e4m3, i8\n  = it is {ROLE}"
    )),
    ("int8", {"quant_algo": "W8A16"}, {}, (
        f"tensor rank0/{DENSE.replace('dense', 'qkv')}.weight is i8[128, 64], but must be float[128, 64]: "
        f"the integers of W8A16 are in an order that depends on the GPU\n  = {PLAINLY}"
    )),
    ("awq", {"quant_algo": "W4A16"}, {}, (
        f"tensor rank0/{DENSE.replace('dense', 'qkv')}.weight is i8[64, 64], but must be float[128, 64]: "
        f"the integers of W4A16 are in an order that depends on the GPU\n  = {PLAINLY}"
    )),
    ("awq", {"group_size": 48}, {}, (
        f"tensor rank0/{DENSE.replace('dense', 'qkv')}.weight is i8[64, 64], but must be of a multiple of "
        "group_size, 48, columns in all, not 64"
    )),
    ("awq", {}, {"weights_scaling_factor": np.ones((4, 64), np.float16)}, (   # [in / g, out], as engines have it
        f"{T}.weights_scaling_factor is f16[4, 64], but the config asks for f16[64, 4]\n  = it is {ROLE}\n  = {OTHER}"
    )),
    ("awq", {}, {"prequant_scaling_factor": np.ones((1, 64), np.float32)}, (
        f"{T}.prequant_scaling_factor is f32[1, 64], but the config asks for f32[64]\n  = it is {ROLE}\n  = {OTHER}"
    )),
    ("fp8-rows", {}, {"per_channel_scale": np.ones(1, np.float32)}, (
        f"{T}.per_channel_scale is f32[1], but the config asks for f32[64]\n  = it is {ROLE}\n  = {OTHER}"
    )),
]   # fmt: skip


def change(folder: Path, section: dict[str, Any], tensors: Tensors) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization"] |= section
    (folder / "config.json").write_text(json.dumps(config))
    file = folder / "rank0.safetensors"
    new = {f"{DENSE}.{name}": t if t is ABSENT else torch.as_tensor(t) for name, t in tensors.items()}
    save({k: t for k, t in {**models.torch_tensors(file), **new}.items() if t is not ABSENT}, file)


@pytest.mark.parametrize(("name", "section", "tensors", "message"), ERRORS)
def test_errors(
    name: str, section: dict[str, Any], tensors: Tensors, message: str, plain: Path, tmp_path: Path
) -> None:
    quantise(SCHEMES[name], plain, tmp_path / "ranks", 1)
    change(tmp_path / "ranks", section, tensors)
    with pytest.raises(TrtcError) as error:
        open_checkpoint(tmp_path / "ranks").graph(Limits(2, 8, 16), f32)
    assert str(error.value) == f"error: {message}"


def test_a_scale_of_sums_needs_that_of_the_input(plain: Path, tmp_path: Path) -> None:
    """lm_head's input has none in the file, so that what a fixed scale means cannot be known."""
    folder, scheme = tmp_path / "ranks", SCHEMES["smooth-quant-tokens"]
    meant = quantise(scheme, plain, folder, 1)["lm_head.weight"]
    (made, _), file = scheme.make("x.mlp.fc", meant), folder / "rank0.safetensors"
    own = {key.replace("x.mlp.fc", "lm_head"): tensor for key, tensor in made.items() if "mlp.fc" in key}
    save({**models.torch_tensors(file), **own}, file)
    assert np.abs(weight(folder, "lm_head.weight", 97, 64) - meant).max() < 0.02   # scales by token: the weight's
    change(folder, {"quant_algo": "W8A8_SQ_PER_TENSOR_PLUGIN"}, {})
    with pytest.raises(TrtcError) as error:
        weight(folder, "lm_head.weight", 97, 64)
    assert str(error.value) == (
        "error: tensor rank0/lm_head.weight is i8[97, 64], but must be of one of attention.qkv, attention.dense, "
        "mlp.fc, mlp.gate, mlp.proj, whose inputs have scales in the file"
    )


shapes = st.lists(st.sampled_from([0, 1, 2, 4, 32, 63, 64]), max_size=3)
dtypes = st.sampled_from([torch.int32, torch.uint8, torch.int8, torch.float32, torch.float8_e4m3fn, torch.float16])


def ones(shape: list[int], dtype: Any) -> Any:
    return torch.ones(shape).to(dtype)


changed = st.builds(ones, shapes, dtypes)
NAMES = [
    "weight", "weights_scaling_factor", "weights_scaling_factor_2", "per_channel_scale", "prequant_scaling_factor",
    "zero", "act_scale", "smoother", "s1_scales", "s1_szeros", "s2_scales", "s2_szeros",
]   # fmt: skip
FUZZED = ("fp8", "fp8-rows", "awq", "int8", "nvfp4", "gptq-4", "smooth-quant", "qserve-rows", "qserve-groups")
ALGORITHMS = st.sampled_from(list(SCHEMES_READ))


@pytest.mark.parametrize("name", list(FUZZED))
def test_any_config_and_tensors_are_taken_or_refused(name: str, plain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ranks"
    quantise(SCHEMES[name], plain, folder, 1)
    good = {file.name: file.read_bytes() for file in folder.iterdir()}

    @settings(max_examples=cases(80), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        st.fixed_dictionaries({}, optional={"quant_algo": ALGORITHMS, "group_size": st.integers(-2, 70) | st.none()}),
        st.dictionaries(st.sampled_from(NAMES), st.just(ABSENT) | changed, max_size=3),
    )
    def property(section: dict[str, Any], tensors: Tensors) -> None:
        for file, content in good.items():
            (folder / file).write_bytes(content)
        change(folder, section, tensors)
        with suppress(TrtcError):
            assert weight(folder, ROLE, 64, 64).shape == (64, 64)

    property()
