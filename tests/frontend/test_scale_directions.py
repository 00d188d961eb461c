"""The direction trap: what becomes of a weight when a tensor beside it is halved, in every quantised form."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import quantizers
import rank_files
import rank_quantizers

save: Any = import_module("safetensors.torch").save_file
RANKS: list[tuple[str, str, int]] = [
    ("fp8", "weights_scaling_factor", 1), ("fp8", "activation_scaling_factor", 0),
    ("fp8-rows", "per_channel_scale", 1), ("fp8-blocks", "weights_scaling_factor", 1),
    ("nvfp4", "weights_scaling_factor", 1), ("nvfp4", "weights_scaling_factor_2", 1),
    ("nvfp4", "activation_scaling_factor", 0),
    ("awq", "weights_scaling_factor", 1), ("awq", "prequant_scaling_factor", 1),   # multiplies x
    ("w4a8", "weights_scaling_factor", 1), ("w4a8", "prequant_scaling_factor", 1),
    ("w4a8", "weights_scaling_factor_2", 0), ("w4a8", "activation_scaling_factor", 0),
    ("int8", "weights_scaling_factor", 1), ("int8", "prequant_scaling_factor", 1),
    ("smooth-quant", "per_channel_scale", 1), ("smooth-quant", "act_scale", 1),
    ("smooth-quant", "smoother", -1),   # divides x
    ("smooth-quant", "../quantization_scaling_factor", 1),   # integers are x times it, and per_channel_scale over it
    ("smooth-quant-both", "per_channel_scale", 1), ("smooth-quant-both", "smoother", -1),
    ("smooth-quant-both", "../quantization_scaling_factor", 0),
    ("qserve-groups", "s1_scales", 1),
]   # fmt: skip
"""Of attention.dense in rank files: 1 where the weight is multiplied by it, -1 where it is divided, 0 for neither."""
TOGETHER: list[tuple[str, tuple[str, ...]]] = [
    ("gptq-4", ("weights_scaling_factor", "zero")),   # zero has the scale in it already
    ("gptq-8", ("weights_scaling_factor", "zero")),
    ("qserve-rows", ("s1_scales", "s1_szeros")),
]   # fmt: skip
"""What is halved with the weight, but not one without the other."""
DIRECTORIES: list[tuple[str, str, int]] = [
    ("awq", "scales", 1), ("gptq-4", "scales", 1), ("gptq-3-v2", "scales", 1),
    ("fp8-blocks", "weight_scale_inv", 1),   # whatever its name says
    ("fp8-whole", "weight_scale", 1), ("fp8-whole", "input_scale", 0),
    ("packed-4", "weight_scale", 1), ("int-8-rows", "weight_scale", 1), ("float-8", "weight_scale", 1),
    ("packed-nvfp4", "weight_scale", 1), ("packed-nvfp4", "weight_global_scale", -1),
    ("modelopt-nvfp4", "weight_scale", 1), ("modelopt-nvfp4", "weight_scale_2", 1),
    ("modelopt-awq", "weight_scale", 1), ("modelopt-awq", "pre_quant_scale", 1),
    ("modelopt-smoothquant", "weight_scale", 1), ("modelopt-smoothquant", "pre_quant_scale", 1),
    ("modelopt-smoothquant", "input_scale", 0),
]   # fmt: skip
"""Of q_proj in Hugging Face directories."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.write(rank_files.CASE, tmp_path_factory.mktemp("models") / "plain")


def halved(file: Path, *keys: str) -> None:
    tensors = models.torch_tensors(file)
    for key in keys:
        kind = tensors[key].dtype
        tensors[key] = (tensors[key].float() / 2).to(kind)
    save(tensors, file)


def of_dense(scheme: str, plain: Path, folder: Path, *names: str) -> tuple[rank_files.Array, rank_files.Array]:
    """attention.dense before and after tensors beside it are halved."""
    rank_files.quantise(rank_quantizers.SCHEMES[scheme], plain, folder, 1)
    stem = "transformer.layers.0.attention.dense"
    was = rank_files.weight(folder, f"{stem}.weight", 64, 64)
    keys = [f"{stem.rpartition('.')[0]}.{name[3:]}" if name.startswith("../") else f"{stem}.{name}" for name in names]
    halved(folder / "rank0.safetensors", *keys)
    return was, rank_files.weight(folder, f"{stem}.weight", 64, 64)


@pytest.mark.parametrize(("scheme", "name", "power"), RANKS)
def test_rank_files(scheme: str, name: str, power: int, plain: Path, tmp_path: Path) -> None:
    was, now = of_dense(scheme, plain, tmp_path / "ranks", name)
    np.testing.assert_array_equal(now, was * np.float32(0.5**power))   # which is exact


@pytest.mark.parametrize(("scheme", "names"), TOGETHER)
def test_zeros_that_have_their_scale_in_them(
    scheme: str, names: tuple[str, ...], plain: Path, tmp_path: Path
) -> None:
    was, now = of_dense(scheme, plain, tmp_path / "both", *names)
    np.testing.assert_array_equal(now, was / 2)
    one, other = of_dense(scheme, plain, tmp_path / "one", names[0])
    assert not np.allclose(other, one / 2)


@pytest.mark.parametrize(("scheme", "name", "power"), DIRECTORIES)
def test_hugging_face_directories(scheme: str, name: str, power: int, plain: Path, tmp_path: Path) -> None:
    made, key = quantizers.SCHEMES[scheme], "model.layers.0.self_attn.q_proj"
    folder = tmp_path / "quantised"
    quantizers.quantise(made, plain, folder)
    was = rank_files.weight(folder, "transformer.layers.0.attention.q.weight", 64, 64)
    halved(folder / "model.safetensors", f"{key}.{name}")
    now = rank_files.weight(folder, "transformer.layers.0.attention.q.weight", 64, 64)
    np.testing.assert_array_equal(now, was * np.float32(0.5**power))


def test_every_form_is_there() -> None:
    """Those that differ only in how bits, groups or flags are written are there once."""
    algorithms = {scheme.section.get("quant_algo") for scheme in rank_quantizers.SCHEMES.values()}
    named = {rank_quantizers.SCHEMES[name].section.get("quant_algo") for name, *_ in (*RANKS, *TOGETHER)}
    later = {None, "W8A16", "W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN", "W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN"}
    assert algorithms - named == later
    methods = {scheme.config.get("quant_method", "modelopt") for scheme in quantizers.SCHEMES.values()}
    assert {quantizers.SCHEMES[name].config.get("quant_method", "modelopt") for name, *_ in DIRECTORIES} == methods
