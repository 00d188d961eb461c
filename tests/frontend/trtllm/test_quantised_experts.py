"""Quantised experts in rank files, as ModelOpt stacks them: with experts whole on ranks, and divided."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import rank_quantizers as quantizers
from fuzz import cases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import LIMITS, Case
from rank_quantizers import Array, Made, Tensors

import trtc
from trtc.compiler import read_model
from trtc.errors import TrtcError
from trtc.frontend.weights import Weights
from trtc.ir.materialize import materialize
from trtc.ir.types import f32

torch: Any = import_module("torch")
save: Any = import_module("safetensors.torch").save_file
CASE = Case("quantised-experts", {
    "hidden_size": 64, "intermediate_size": 96, "num_key_value_heads": 2, "num_local_experts": 4,
    "num_experts_per_tok": 2,
}, model="Mixtral")   # fmt: skip
HF, OURS = "model.layers.{}.block_sparse_moe.experts.{}.{}.weight", "transformer.layers.{}.mlp.{}"
SHARED = np.linspace(0.5, 2, 64, dtype=np.float32)   # what x is multiplied by before all experts of a layer


def awq_of_one_input(w: Array) -> Made:
    """fc's, for whose experts ModelOpt takes the mean of what each would multiply x by."""
    return quantizers.awq(w, SHARED)


def nvfp4_as_scalars(w: Array) -> Made:
    tensors, meant = quantizers.nvfp4(w)
    return {**tensors, "weights_scaling_factor_2": tensors["weights_scaling_factor_2"][0]}, meant


Scheme = tuple[dict[str, Any], Callable[[Array], Made], Callable[[Array], Made]]
SCHEMES: dict[str, Scheme] = {   # of config.json; fc's and proj's
    "fp8": ({"quant_algo": "FP8"}, quantizers.fp8, quantizers.fp8),
    "fp8-as-integers": ({"enable_fp8": True}, quantizers.fp8_as_integers, quantizers.fp8_as_integers),
    "fp8-rows": ({"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"}, quantizers.fp8_rows, quantizers.fp8_rows),
    "awq": ({"quant_algo": "W4A16_AWQ", "group_size": 16}, awq_of_one_input, quantizers.awq),
    "w4a8": ({"quant_algo": "W4A8_AWQ", "group_size": 16}, quantizers.w4a8, quantizers.w4a8),
    "gptq-4": ({"quant_algo": "W4A16_GPTQ", "group_size": 16}, quantizers.gptq(4), quantizers.gptq(4)),
    "nvfp4": ({"quant_algo": "NVFP4"}, quantizers.nvfp4, quantizers.nvfp4),
    "nvfp4-scalars": ({"quant_algo": "NVFP4"}, nvfp4_as_scalars, nvfp4_as_scalars),
    "int8": ({"quant_algo": "W8A8_SQ_PER_CHANNEL"}, quantizers.int8, quantizers.int8),
}   # fmt: skip


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint in Hugging Face's form, before it is quantised."""
    return models.write(CASE, tmp_path_factory.mktemp("models") / "plain")


def stacked(made: list[Tensors]) -> Tensors:
    """The experts' tensors as one; what all share, and activations' one scale, as it is."""
    found: Tensors = {}
    for name, first in made[0].items():
        each = [tensors[name] for tensors in made]
        shared = name == "activation_scaling_factor" or (
            name == "prequant_scaling_factor" and all(torch.equal(first, other) for other in each)
        )
        bits = [tensor.view(torch.uint8) for tensor in each] if first.dtype == torch.float8_e4m3fn else each
        found[name] = first if shared else torch.stack(bits).view(first.dtype)
    return found


def quantise(name: str, plain: Path, folder: Path, tp: int, ep: int) -> Tensors:
    """The rank files, of experts that are quantised. Gives what they mean, by Hugging Face's key."""
    section, of_fc, of_proj = SCHEMES[name]
    trtc.convert(plain, folder, tp_size=tp, moe_ep_size=ep)
    config = json.loads((folder / "config.json").read_text())
    del config["trtc"]
    (folder / "config.json").write_text(json.dumps({**config, "quantization": section}))
    hf, meant = models.torch_tensors(plain), dict[str, Any]()
    pieces: dict[str, dict[int, Array]] = {}
    for rank in range(tp):
        file, half, halves = folder / f"rank{rank}.safetensors", rank // ep, tp // ep
        found = models.torch_tensors(file)
        own = range(4 // ep * (rank % ep), 4 // ep * (rank % ep + 1))
        for layer in range(2):
            fc, proj = list[Tensors](), list[Tensors]()
            for expert in own:
                w1, w2, w3 = (hf[HF.format(layer, expert, part)].numpy() for part in ("w1", "w2", "w3"))
                up, down = (np.split(w, halves)[half] for w in (w3, w1)), np.split(w2, halves, 1)[half]
                made, both = of_fc(np.concatenate(tuple(up)))
                fc.append(made)
                made, own_proj = of_proj(np.ascontiguousarray(down))
                proj.append(made)
                for part, piece in zip(("w3", "w1", "w2"), (*np.split(both, 2), own_proj), strict=True):
                    pieces.setdefault(HF.format(layer, expert, part), {})[half] = piece
            for part, made in (("fc", fc), ("proj", proj)):
                del found[f"{OURS.format(layer, part)}.weight"]
                found |= {f"{OURS.format(layer, part)}.{key}": tensor for key, tensor in stacked(made).items()}
        save(found, file)
    for key, parts in pieces.items():
        axis = int(".w2." in key)
        meant[key] = torch.from_numpy(np.concatenate([parts[n] for n in sorted(parts)], axis))
    return meant


def weight(folder: Path, role: str, *shape: int) -> Array:
    checkpoint = models.opened(folder)
    return materialize(Weights(checkpoint.source, checkpoint.expression, f32)(role, *shape), checkpoint.source)


@pytest.mark.parametrize(("tp", "ep"), [(1, 1), (2, 2), (4, 2)])
@pytest.mark.parametrize("name", SCHEMES)
def test_weights_are_what_the_format_says_that_they_mean(
    name: str, tp: int, ep: int, plain: Path, tmp_path: Path
) -> None:
    meant = quantise(name, plain, tmp_path / "ranks", tp, ep)
    for layer in range(2):
        for role, part, shape in (("fc", "w1", (96, 64)), ("gate", "w3", (96, 64)), ("proj", "w2", (64, 96))):
            got = weight(tmp_path / "ranks", f"{OURS.format(layer, role)}.weight", 4, *shape)
            want = np.stack([meant[HF.format(layer, expert, part)].numpy() for expert in range(4)])
            np.testing.assert_array_max_ulp(got, want, 1)


@pytest.mark.parametrize("name", ["fp8", "awq", "nvfp4"])
def test_logits_are_those_of_the_dequantised_model(name: str, plain: Path, tmp_path: Path) -> None:
    """Read as they are, and after a conversion to one plain rank. Transformers' own; as in test_families.py."""
    meant = quantise(name, plain, tmp_path / "ranks", 2, 2)
    shutil.copytree(plain, tmp_path / "meant")
    save({**models.torch_tensors(plain), **meant}, tmp_path / "meant/model.safetensors")
    expected = np.stack(models.fresh_reference(tmp_path / "meant", CASE, "float32"))
    assert expected.std() > 0.3   # words differ, or agreement would say little
    trtc.convert(tmp_path / "ranks", tmp_path / "one")
    for folder in (tmp_path / "ranks", tmp_path / "one"):
        model = read_model(folder, dtype="float32", **LIMITS)
        got = models.graph_logits(model.graph, model.checkpoint.source, CASE)
        np.testing.assert_allclose(got, expected, rtol=0, atol=5e-5)


shapes = st.lists(st.sampled_from([0, 1, 2, 4, 6, 32, 64, 96]), max_size=4)
dtypes = st.sampled_from([torch.uint8, torch.int8, torch.float32, torch.float8_e4m3fn, torch.float16])
NAMES = ["weight", "weights_scaling_factor", "weights_scaling_factor_2", "prequant_scaling_factor", "zero"]


def ones(shape: list[int], dtype: Any) -> Any:
    return torch.ones(shape).to(dtype)


@pytest.mark.parametrize("name", ["fp8", "awq", "nvfp4", "gptq-4"])
def test_any_tensors_are_taken_or_refused(name: str, plain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ranks"
    quantise(name, plain, folder, 1, 1)
    file = folder / "rank0.safetensors"
    good = models.torch_tensors(file)

    @settings(max_examples=cases(80), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.dictionaries(st.sampled_from(NAMES), st.none() | st.builds(ones, shapes, dtypes), max_size=3))
    def property(tensors: Tensors) -> None:
        changed = good | {f"{OURS.format(0, 'proj')}.{key}": tensor for key, tensor in tensors.items()}
        save({key: tensor for key, tensor in changed.items() if tensor is not None}, file)
        with suppress(TrtcError):
            assert weight(folder, f"{OURS.format(0, 'proj')}.weight", 4, 64, 96).shape == (4, 64, 96)

    property()
