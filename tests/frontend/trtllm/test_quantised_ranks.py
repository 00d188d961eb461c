"""Quantised rank files: weights are what the format's description says that their tensors mean, and so are logits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any
from zlib import crc32

import ml_dtypes
import models
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import LIMITS, Case

import trtc
from trtc.errors import TrtcError
from trtc.frontend import Limits, open_checkpoint
from trtc.frontend.trtllm.dequantize import SCHEMES as SCHEMES_READ
from trtc.frontend.weights import Weights
from trtc.ir.materialize import materialize
from trtc.ir.types import f32

torch: Any = import_module("torch")
save: Any = import_module("safetensors.torch").save_file
Array = npt.NDArray[Any]
Tensors = dict[str, Any]
ABSENT: Any = object()

CASE = Case("quantised-ranks", {"hidden_size": 64, "intermediate_size": 96, "num_key_value_heads": 2})
CLOSE = 5e-5   # what differs is the order of sums alone, as in test_families.py
GROUP = 16
PLAIN = ("transformer.layers.1.attention.dense", "lm_head")   # as exclude_modules would have it
ROLES = {
    "self_attn.q_proj": "attention.q", "self_attn.k_proj": "attention.k", "self_attn.v_proj": "attention.v",
    "self_attn.o_proj": "attention.dense", "mlp.gate_proj": "mlp.fc", "mlp.up_proj": "mlp.gate",
    "mlp.down_proj": "mlp.proj", "input_layernorm": "input_layernorm",
    "post_attention_layernorm": "post_layernorm",
}   # fmt: skip
BY_COLUMNS = ("attention.dense", "mlp.proj")   # what ranks divide by their inputs

# Each gives the tensors of a linear layer (by the last part of the name), and the weight that they mean.
Made = tuple[Tensors, Array]


def e4m3(q: Array, *, as_integers: bool = False) -> Any:
    bits = torch.from_numpy(np.ascontiguousarray(q).view(np.int8).copy())
    return bits if as_integers else bits.view(torch.float8_e4m3fn)


def fp8(w: Array, *, as_integers: bool = False) -> Made:
    """One scale for all: amax / 448; TensorRT's dequantise layer multiplies by it."""
    scale: Array = (np.abs(w).max(keepdims=True) / 448).astype(np.float32)
    q: Array = (w / scale).astype(ml_dtypes.float8_e4m3fn)
    tensors = {"weight": e4m3(q, as_integers=as_integers), "weights_scaling_factor": torch.from_numpy(scale[0])}
    return {**tensors, "activation_scaling_factor": torch.tensor([0.1])}, q.astype(np.float32) * scale


def fp8_rows(w: Array) -> Made:
    """max(row's amax / 448, 1 / (448 * 512))."""
    scale: Array = np.maximum(np.abs(w).max(1) / 448, 1 / (448 * 512)).astype(np.float32)
    q: Array = (w / scale[:, None]).astype(ml_dtypes.float8_e4m3fn)
    tensors = {"weight": e4m3(q), "per_channel_scale": torch.from_numpy(scale)}
    return tensors, q.astype(np.float32) * scale[:, None]


def before(w: Array) -> Array:
    """What x is multiplied by first; another one for each layer and rank."""
    columns: int = w.shape[1]
    return np.random.default_rng(crc32(w.tobytes())).random(columns, np.float32) * 1.5 + 0.5


def awq(w: Array) -> Made:
    """q = round(w / prequant / scale) in -8..7; byte [i, j] holds rows 2 i (the low half) and 2 i + 1 of column j."""
    rows, columns = w.shape
    p = before(w)
    groups = (w / p).reshape(rows, columns // GROUP, GROUP)
    scale: Array = (np.abs(groups).max(2) / 8).astype(np.float16)
    q: Array = np.clip(np.round(groups / scale[:, :, None].astype(np.float32)), -8, 7).astype(int)
    flat, packed = q.reshape(rows, columns), np.zeros((rows // 2, columns), np.uint8)
    for i in range(rows // 2):
        packed[i] = (flat[2 * i] & 15) + 16 * (flat[2 * i + 1] & 15)
    meant = (q * scale[:, :, None].astype(np.float32)).reshape(rows, columns).astype(np.float32) * p
    tensors = {"weight": packed.view(np.int8), "weights_scaling_factor": scale, "prequant_scaling_factor": p}
    return {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, meant


def smooth_quant(w: Array) -> Made:
    p = before(w)
    scale: Array = (np.abs(w / p).max(1) / 127).astype(np.float32)
    q: Array = np.round(w / p / scale[:, None]).astype(np.int8)
    tensors = {"weight": q, "weights_scaling_factor": scale, "prequant_scaling_factor": p}
    made = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
    return {**made, "activation_scaling_factor": torch.tensor([0.1])}, q.astype(np.float32) * scale[:, None] * p


def plainly(w: Array) -> Made:
    return {"weight": torch.from_numpy(w.copy())}, w


@dataclass(frozen=True)
class Scheme:
    """How config.json says it, and what makes the tensors of a layer."""

    make: Callable[[Array], Made]
    section: dict[str, Any] = field(default_factory=dict[str, Any])


SCHEMES = {
    "fp8": Scheme(fp8, {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}),
    "fp8-as-integers": Scheme(lambda w: fp8(w, as_integers=True), {"enable_fp8": True, "fp8_kv_cache": True}),
    "fp8-rows": Scheme(fp8_rows, {"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"}),
    "awq": Scheme(awq, {"quant_algo": "W4A16_AWQ", "group_size": GROUP, "pre_quant_scale": True}),
    "smooth-quant": Scheme(smooth_quant, {"quant_algo": "W8A8_SQ_PER_CHANNEL"}),
    "int8-later": Scheme(plainly, {"quant_algo": "W8A16"}),
    "int4-later": Scheme(plainly, {"quant_aglo": "W4A16"}),
    "cache-alone": Scheme(plainly, {"quant_algo": None, "kv_cache_quant_algo": "INT8"}),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model before it is quantised."""
    return models.write(CASE, tmp_path_factory.mktemp("models") / "plain")


def document(section: dict[str, Any], tp: int) -> dict[str, Any]:
    """config.json as TensorRT-LLM wrote it."""
    return {
        "architecture": "LlamaForCausalLM", "dtype": "float32", "logits_dtype": "float32", "vocab_size": 97,
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 96, "hidden_act": "silu", "norm_epsilon": 1e-5, "max_position_embeddings": 64,
        "position_embedding_type": "rope_gpt_neox", "rotary_base": 10000.0, "quantization": section,
        "mapping": {"world_size": tp, "tp_size": tp, "pp_size": 1},
    }   # fmt: skip


def quantise(name: str, plain: Path, folder: Path, tp: int) -> dict[str, Array]:
    """The rank files of a model, each part quantised by itself. Gives what its weights mean, by Hugging Face's key."""
    scheme, tensors = SCHEMES[name], {k: t.numpy() for k, t in models.torch_tensors(plain).items()}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(document(scheme.section, tp)))
    parts: dict[str, list[Array]] = {key: [] for key in tensors}
    for rank in range(tp):
        save(one_rank(scheme, tensors, parts, rank, tp), folder / f"rank{rank}.safetensors")
    joined = {key: np.concatenate(each, axis_of(key)) if divided(key) else each[0] for key, each in parts.items()}
    return {key: joined[key][: len(tensor)] for key, tensor in tensors.items()}


def one_rank(scheme: Scheme, tensors: Tensors, parts: dict[str, list[Array]], rank: int, tp: int) -> Tensors:
    """The tensors of a rank; what its weights mean is added to ``parts``."""
    own: dict[str, Array] = {}
    for key, tensor in tensors.items():
        padded = np.pad(tensor, ((0, -97 % tp), (0, 0))) if key == "lm_head.weight" else tensor
        own[key] = np.split(padded, tp, axis_of(key))[rank] if divided(key) else padded
    found: Tensors = {}
    for n in range(2):
        stem = f"model.layers.{n}.self_attn."
        keys = [f"{stem}{part}_proj.weight" for part in "qkv"]
        made, meant = scheme.make(np.concatenate([own.pop(key) for key in keys]))   # one scale for the three
        found |= {f"transformer.layers.{n}.attention.qkv.{part}": tensor for part, tensor in made.items()}
        found[f"transformer.layers.{n}.attention.kv_cache_scaling_factor"] = torch.tensor([1.5])
        heads = 64 // tp
        for key, part in zip(keys, np.split(meant, [heads, heads + 32 // tp]), strict=True):
            parts[key].append(part)
    for key, w in own.items():
        name = name_of(key).removesuffix(".weight")
        made, meant = (scheme.make if key.endswith("_proj.weight") and name not in PLAIN else plainly)(w)
        found |= {f"{name}.{part}": tensor for part, tensor in made.items()}
        parts[key].append(meant)
    return found


def name_of(key: str) -> str:
    """The format's name of a tensor of Hugging Face's."""
    if key.startswith("model.layers."):
        _, _, layer, part = key.removesuffix(".weight").split(".", 3)
        return f"transformer.layers.{layer}.{ROLES[part]}.weight"
    outside = {"model.embed_tokens": "transformer.vocab_embedding", "model.norm": "transformer.ln_f"}
    stem = key.removesuffix(".weight")
    return f"{outside.get(stem, stem)}.weight"


def divided(key: str) -> bool:
    return key.endswith("_proj.weight") or key == "lm_head.weight"


def axis_of(key: str) -> int:
    return int(any(part in name_of(key) for part in BY_COLUMNS))


def weight(folder: Path, role: str, *shape: int) -> Array:
    checkpoint = models.opened(folder)
    return materialize(Weights(checkpoint.source, checkpoint.expression, f32)(role, *shape), checkpoint.source)


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("name", SCHEMES)
def test_weights_are_what_the_format_says_that_they_mean(name: str, tp: int, plain: Path, tmp_path: Path) -> None:
    meant = quantise(name, plain, tmp_path / "ranks", tp)
    for key, want in meant.items():
        np.testing.assert_array_max_ulp(weight(tmp_path / "ranks", name_of(key), *want.shape), want, 1)


def test_an_engine_gives_the_logits_of_the_dequantised_model(plain: Path, tmp_path: Path) -> None:
    meant = quantise("awq", plain, tmp_path / "ranks", 2)
    shutil.copytree(plain, tmp_path / "meant")
    save({key: torch.from_numpy(w.copy()) for key, w in meant.items()}, tmp_path / "meant/model.safetensors")
    expected = np.stack(models.fresh_reference(tmp_path / "meant", CASE, "float32"))
    assert expected.std() > 0.3   # words differ, or agreement would say little
    bundle = trtc.compile(tmp_path / "ranks", tmp_path / "engine", target="onnx", **LIMITS)
    np.testing.assert_allclose(models.engine_logits(bundle, CASE), expected, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("source", ["auto", "modelopt", "trtllm"])
def test_conversion_gives_a_plain_checkpoint(source: str, plain: Path, tmp_path: Path) -> None:
    meant = quantise("smooth-quant", plain, tmp_path / "ranks", 2)
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
    ("fp8", {"quant_algo": "NVFP4"}, {}, (
        "config.json: quantization.quant_algo is NVFP4, but must be null or one of FP8, FP8_PER_CHANNEL_PER_TOKEN, "
        f"W8A8_SQ_PER_CHANNEL, W4A16_AWQ, W8A16, W4A16\n  = {PLAINLY}"
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
    ("smooth-quant", {"quant_algo": "W8A16"}, {}, (
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
    quantise(name, plain, tmp_path / "ranks", 1)
    change(tmp_path / "ranks", section, tensors)
    with pytest.raises(TrtcError) as error:
        open_checkpoint(tmp_path / "ranks").graph(Limits(2, 8, 16), f32)
    assert str(error.value) == f"error: {message}"


shapes = st.lists(st.sampled_from([0, 1, 2, 4, 32, 63, 64]), max_size=3)
dtypes = st.sampled_from([torch.int32, torch.uint8, torch.int8, torch.float32, torch.float8_e4m3fn, torch.float16])


def ones(shape: list[int], dtype: Any) -> Any:
    return torch.ones(shape).to(dtype)


changed = st.builds(ones, shapes, dtypes)
NAMES = ["weight", "weights_scaling_factor", "per_channel_scale", "prequant_scaling_factor"]
ALGORITHMS = st.sampled_from(list(SCHEMES_READ))


@pytest.mark.parametrize("name", ["fp8", "awq", "fp8-rows", "smooth-quant"])
def test_any_config_and_tensors_are_taken_or_refused(name: str, plain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ranks"
    quantise(name, plain, folder, 1)
    good = {file.name: file.read_bytes() for file in folder.iterdir()}

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
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
