"""MIXED_PRECISION: layers with algorithms of their own, by name or by pattern, in both of ModelOpt's forms."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import quantizers
from fuzz import cases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rank_files import CASE, name_of, quantise_each, weight
from rank_quantizers import PLAIN, SCHEMES, Array, Scheme

from trtc.errors import TrtcError
from trtc.frontend import Limits, open_checkpoint
from trtc.frontend.quantized.layers import Patterns
from trtc.frontend.weights import Weights
from trtc.ir.materialize import materialize
from trtc.ir.types import f32

save: Any = import_module("safetensors.torch").save_file
MIXED = {"quant_algo": "MIXED_PRECISION"}
LAYERS: dict[str, str] = {
    "transformer.layers.0.attention.qkv": "fp8", "transformer.layers.?.attention.qkv": "nvfp4",
    "*.mlp.fc": "awq", "transformer.layers.[01].mlp.gate": "int8", "transformer.layers.1.mlp.proj": "fp8-rows",
}   # fmt: skip
"""By the names and patterns, of which the first that matches counts; what none matches is plain."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.write(CASE, tmp_path_factory.mktemp("models") / "plain")


def scheme_of(name: str) -> Scheme:
    """As the original meant it: fnmatch of the layer's name, over the patterns in their order."""
    return next((SCHEMES[scheme] for pattern, scheme in LAYERS.items() if fnmatchcase(name, pattern)), PLAIN)


def quantise(plain: Path, folder: Path, tp: int = 1, *, inline: bool = False) -> dict[str, Array]:
    layers = {pattern: SCHEMES[scheme].section for pattern, scheme in LAYERS.items()}
    section = {**MIXED, "quantized_layers": layers} if inline else MIXED
    meant = quantise_each(scheme_of, section, plain, folder, tp)
    if not inline:
        stated = {**MIXED, "kv_cache_quant_algo": "FP8", "quantized_layers": layers}
        (folder / "quant_cfg.json").write_text(json.dumps(stated))
    return meant


@pytest.mark.parametrize(("tp", "inline"), [(1, False), (2, False), (1, True)])
def test_each_layer_is_read_by_its_own_algorithm(tp: int, inline: bool, plain: Path, tmp_path: Path) -> None:
    meant = quantise(plain, tmp_path / "ranks", tp, inline=inline)
    changed = 0
    for key, want in meant.items():
        np.testing.assert_array_max_ulp(weight(tmp_path / "ranks", name_of(key), *want.shape), want, 1)
        changed += not np.array_equal(models.torch_tensors(plain)[key].numpy(), want)
    assert changed == 3 + 3 + 2 + 2 + 1


def edit(folder: Path, file: str, **changes: Any) -> None:
    stated = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**stated, **changes}))


QKV = "transformer.layers.0.attention.qkv"
ERRORS: list[tuple[Any, str]] = [
    (None, (
        "quant_cfg.json: quantized_layers is null, but must be an object, of an algorithm by the name of each layer"
    )),
    ({QKV: "FP8"}, f'quant_cfg.json: quantized_layers.{QKV} is "FP8", but must be an object'),
    ({QKV: {"quant_algo": "W4A16_MXFP4"}}, (
        f"quant_cfg.json: quantized_layers.{QKV}.quant_algo is W4A16_MXFP4, but must be null or one of FP8, "
    )),
    ({QKV: {"quant_algo": "MIXED_PRECISION"}}, (
        f"quant_cfg.json: quantized_layers.{QKV}.quant_algo is MIXED_PRECISION, but must be null or one of FP8, "
    )),
    ({QKV: {"quant_algo": "F8"}}, (
        f'quant_cfg.json: quantized_layers.{QKV}.quant_algo is "F8", but must be one of W8A16, W4A16, '
    )),
    ({"*": {"quant_algo": "W4A16_AWQ", "group_size": 0}}, (
        "quant_cfg.json: quantized_layers.*.group_size is 0, but must be at least 1"
    )),
    ({"*.mlp.*": {"quant_algo": "FP8"}}, (   # so that qkv is plain
        f"tensor rank0/{QKV}.weight is f8e4m3[128, 64], but must be one of f32, f16, bf16"
    )),
]   # fmt: skip


@pytest.mark.parametrize(("layers", "message"), ERRORS)
def test_errors(layers: Any, message: str, plain: Path, tmp_path: Path) -> None:
    quantise(plain, tmp_path / "ranks")
    edit(tmp_path / "ranks", "quant_cfg.json", quantized_layers=layers)
    with pytest.raises(TrtcError) as error:
        open_checkpoint(tmp_path / "ranks").graph(Limits(2, 8, 16), f32)
    assert str(error.value).startswith(f"error: {message}")


def test_the_file_of_layers_must_be_there(plain: Path, tmp_path: Path) -> None:
    quantise(plain, tmp_path / "ranks")
    (tmp_path / "ranks/quant_cfg.json").unlink()
    with pytest.raises(TrtcError, match=re.escape(f"quant_cfg.json is missing from {tmp_path / 'ranks'}")):
        open_checkpoint(tmp_path / "ranks")


names = st.text(st.sampled_from("ab.*?[]!-"), max_size=8)


@settings(max_examples=cases(2000), deadline=None)
@given(names, st.lists(names, max_size=5))
def test_patterns_are_fnmatch_s(name: str, patterns: list[str]) -> None:
    """The module that the original called as a function; a name without wildcards is itself."""
    want = next((n for n, p in enumerate(patterns) if name == p or fnmatchcase(name, p)), None)
    assert Patterns(patterns).first(name) == want and (name in Patterns(patterns)) == (want is not None)


Strategy = st.SearchStrategy[Any]
anything: Strategy = st.none() | st.booleans() | st.integers(-2, 70) | st.sampled_from(["", "x", [1], {"a": 1}])
layer: Strategy = st.fixed_dictionaries({}, optional={
    "quant_algo": st.sampled_from(["FP8", "NVFP4", "W4A16_AWQ", "W8A16", "NO_QUANT", "?"]) | anything,
    "group_size": anything, "has_zero_point": anything, "exclude_modules": anything,
})   # fmt: skip
keys = st.sampled_from([*LAYERS, "*", "[", ""]) | names
some_layers: Strategy = st.dictionaries(keys, layer | anything, max_size=4)


def test_any_layers_are_taken_or_refused(plain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ranks"
    quantise(plain, folder)

    @settings(max_examples=cases(200), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(some_layers | anything)
    def property(layers: Any) -> None:
        edit(folder, "quant_cfg.json", quantized_layers=layers)
        with suppress(TrtcError):
            assert weight(folder, "transformer.layers.0.attention.q.weight", 64, 64).shape == (64, 64)

    property()


# ModelOpt's Hugging Face form
FORMS = {
    "model.layers.*.self_attn.[qkv]_proj": "modelopt-fp8", "model.layers.0.mlp.gate_proj": "modelopt-nvfp4",
    "*.up_proj": "modelopt-awq", "model.layers.1.mlp.down_proj": "modelopt-smoothquant",
}   # fmt: skip
ALGORITHMS = {
    "modelopt-fp8": "FP8", "modelopt-nvfp4": "NVFP4", "modelopt-awq": "W4A16_AWQ",
    "modelopt-smoothquant": "W8A8_SQ_PER_CHANNEL",
}   # fmt: skip


def quantise_hf(plain: Path, folder: Path, **more: Any) -> dict[str, Any]:
    kept, meant = models.torch_tensors(plain), dict[str, Any]()
    for key, tensor in list(kept.items()):
        stem = key.removesuffix(".weight")
        form = next((form for pattern, form in FORMS.items() if fnmatchcase(stem, pattern)), None)
        meant[key] = tensor
        if form:
            made, meant[key] = quantizers.SCHEMES[form].make(kept.pop(key))
            kept |= {f"{stem}.{name}": part.contiguous() for name, part in made.items()}
    folder.mkdir()
    (folder / "config.json").write_text((plain / "config.json").read_text())
    save(kept, folder / "model.safetensors")
    layers = {pattern: {"quant_algo": ALGORITHMS[form], "group_size": 16} for pattern, form in FORMS.items()}
    section = {**MIXED, "kv_cache_quant_algo": None, "quantized_layers": layers, **more}
    (folder / "hf_quant_config.json").write_text(json.dumps({"producer": {}, "quantization": section}))
    return meant


def test_hugging_face_s_form(plain: Path, tmp_path: Path) -> None:
    meant = quantise_hf(plain, tmp_path / "mixed", exclude_modules=["lm_head", "*norm*"])
    checkpoint = models.opened(tmp_path / "mixed")
    weights = Weights(checkpoint.source, checkpoint.expression, f32)
    for key, want in meant.items():
        got = materialize(weights(name_of(key), *want.shape), checkpoint.source)
        np.testing.assert_array_max_ulp(got, want.numpy(), 1)
    assert sum(not np.array_equal(meant[k].numpy(), t.numpy()) for k, t in models.torch_tensors(plain).items()) == 10


@pytest.mark.parametrize("beside", [True, False])
def test_the_first_versions_of_it_name_no_method(beside: bool, plain: Path, tmp_path: Path) -> None:
    """config.json as ModelOpt 0.31 wrote it, which says less than the file beside it, if that is there."""
    folder, key = tmp_path / "mixed", "model.layers.0.mlp.gate_proj.weight"
    want = quantise_hf(plain, folder)[key].numpy()
    stated = {"ignore": ["lm_head"], **MIXED, "producer": {"name": "modelopt", "version": "0.31.0"}}
    edit(folder, "config.json", quantization_config=stated)
    if not beside:
        (folder / "hf_quant_config.json").unlink()
    np.testing.assert_array_max_ulp(weight(folder, name_of(key), *want.shape), want, 1)


Q = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"exclude_modules": ["*.self_attn.*"]}, f"tensor {Q}.weight is f8e4m3[64, 64], but must be one of f32"),
        ({"ignore": [Q]}, f"tensor {Q}.weight is f8e4m3[64, 64], but must be one of f32, f16, bf16"),
        ({"quantized_layers": {"*.mlp.*": {"quant_algo": "FP8"}}}, f"tensor {Q}.weight is f8e4m3[64, 64], but must be"),
        ({"quantized_layers": {Q: {"quant_algo": "FP9"}}}, (
            f'hf_quant_config.json: quantization.quantized_layers.{Q}.quant_algo is "FP9", but must be one of FP8, '
        )),
        ({"quantized_layers": {Q: {}}}, (
            f"hf_quant_config.json: quantization.quantized_layers.{Q}.quant_algo is missing"
        )),
        ({"quantized_layers": ["FP8"]}, (
            'hf_quant_config.json: quantization.quantized_layers is ["FP8"], but must be an object'
        )),
        ({"exclude_modules": {"lm_head": True}}, (
            'hf_quant_config.json: quantization.exclude_modules is {"lm_head": true}, '
            "but must be a list of names or patterns of layers"
        )),
    ],
)   # fmt: skip
def test_hugging_face_s_errors(section: dict[str, Any], message: str, plain: Path, tmp_path: Path) -> None:
    quantise_hf(plain, tmp_path / "mixed", **section)
    with pytest.raises(TrtcError) as error:
        open_checkpoint(tmp_path / "mixed").graph(Limits(2, 8, 16), f32)
    assert str(error.value).startswith(f"error: {message}")


def test_any_layers_of_hugging_face_s_form(plain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    quantise_hf(plain, folder)

    @settings(max_examples=cases(200), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(some_layers | anything, st.lists(names, max_size=2) | anything)
    def property(layers: Any, excluded: Any) -> None:
        section = {**MIXED, "quantized_layers": layers, "exclude_modules": excluded}
        edit(folder, "hf_quant_config.json", quantization=section)
        with suppress(TrtcError):
            assert weight(folder, "transformer.layers.0.attention.q.weight", 64, 64).shape == (64, 64)

    property()
