"""Converting models with experts to ranks that have some experts whole; context-parallel ranks, which share files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from family_cases_moe import FAMILY_CASES_MOE
from fuzz import cases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import LIMITS

import trtc
from trtc.compiler import read_model
from trtc.errors import TrtcError

torch = models.torch
OURS, THEIRS = "transformer.layers.1.mlp", "model.layers.1.block_sparse_moe"
SPREADS = [(2, 1, 2), (4, 2, 2), (4, 2, 4), (4, 1, 2)]   # tp, pp, moe_ep


def convert(source: Path, out: Path, tp: int = 1, pp: int = 1, ep: int = 0, **options: Any) -> Path:
    trtc.convert(source, out, tp_size=tp, pp_size=pp, moe_ep_size=ep, **options)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize(("tp", "pp", "ep"), SPREADS)
@pytest.mark.parametrize("name", ["mixtral", "qwen2-moe", "qwen3-moe-head16", "deepseek-v3-groups-yarn"])
def test_there_and_back_again(name: str, tp: int, pp: int, ep: int, tmp_path: Path) -> None:
    """With experts whole, to one rank, to ranks that divide each, and back: as from the source at once."""
    source = models.checkpoint(name)
    spread = convert(source, tmp_path / "spread", tp, pp, ep)
    assert contents(convert(spread, tmp_path / "one")) == contents(convert(source, tmp_path / "one-at-once"))
    divided = convert(spread, tmp_path / "divided", 2, 2)
    assert contents(divided) == contents(convert(source, tmp_path / "divided-at-once", 2, 2))
    assert contents(convert(divided, tmp_path / "again", tp, pp, ep)) == contents(spread)
    expected, found = models.weights_of_model(source), models.weights_of_model(spread)
    assert expected.keys() == found.keys()
    for role, array in found.items():   # in f32, which all fit in: routers are stored so
        np.testing.assert_array_equal(array.astype(np.float32), expected[role].astype(np.float32), err_msg=role)


def test_the_experts_of_a_rank(tmp_path: Path) -> None:
    """By hand: of 4 experts on 2 x 2 ranks, rank n has experts 2 (n % 2) and the next, and half n // 2 of each."""
    source = models.checkpoint("mixtral")
    hf = models.torch_tensors(source)
    folder = convert(source, tmp_path / "ranks", 4, ep=2)
    for rank in range(4):
        tensors, half = models.torch_tensors(folder / f"rank{rank}.safetensors"), rank // 2
        own = range(2 * (rank % 2), 2 * (rank % 2) + 2)
        experts = [[hf[f"{THEIRS}.experts.{n}.{part}.weight"] for part in ("w3", "w1", "w2")] for n in own]
        fc = [torch.cat([w3.chunk(2)[half], w1.chunk(2)[half]]) for w3, w1, _ in experts]
        assert torch.equal(tensors[f"{OURS}.fc.weight"], torch.stack(fc))
        proj = [w2.chunk(2, 1)[half] for _, _, w2 in experts]
        assert torch.equal(tensors[f"{OURS}.proj.weight"], torch.stack(proj))
        assert tensors[f"{OURS}.router.weight"].shape == (4, 32)
        dense = hf["model.layers.1.self_attn.o_proj.weight"].chunk(4, 1)[rank]
        assert torch.equal(tensors["transformer.layers.1.attention.dense.weight"], dense)
    mapping = json.loads((folder / "config.json").read_text())["mapping"]
    assert mapping == {"world_size": 4, "tp_size": 4, "pp_size": 1, "moe_tp_size": 2, "moe_ep_size": 2}


OLDER = {
    "sizes": {}, "one-follows": {"mapping": {"moe_ep_size": None, "moe_tp_size": 2}},
    "one-unsaid": {"mapping": {"moe_ep_size": 2, "moe_tp_size": -1}},
    "mode-before-moe": {"mapping": {"moe_ep_size": None, "moe_tp_size": None}, "moe": None, "moe_tp_mode": 1,
                        "moe_num_experts": 4, "moe_top_k": 2},
    "mode-of-moe": {"mapping": {"moe_ep_size": None, "moe_tp_size": None}, "moe": {"tp_mode": 1}},
}   # fmt: skip


@pytest.mark.parametrize("name", OLDER)
def test_logits_of_checkpoints_as_tensorrt_llm_wrote_them(name: str, tmp_path: Path) -> None:
    """Without what trtc adds, by every spelling of the sizes. Transformers' own; tolerance as in test_families.py."""
    case, stated = FAMILY_CASES_MOE["mixtral"], OLDER[name]
    source = models.checkpoint("mixtral")
    folder = convert(source, tmp_path / "ranks", 4, 2, 4 if "mode" in name else 2, dtype="float32")
    config = json.loads((folder / "config.json").read_text())
    del config["trtc"]
    for key, value in stated.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    config["mapping"] = {key: size for key, size in config["mapping"].items() if size is not None}
    (folder / "config.json").write_text(json.dumps(config))
    expected = np.stack(models.reference(source, case, "float32"))
    model = read_model(folder, dtype="float32", **LIMITS)
    got = models.graph_logits(model.graph, model.checkpoint.source, case)
    np.testing.assert_allclose(got, expected, rtol=0, atol=5e-5)


def test_context_parallel_ranks_share_files(tmp_path: Path) -> None:
    """Rank r reads file r % tp + r // (tp * cp) * tp: those of one stage and place have one file."""
    source = models.checkpoint("mha")
    folder = convert(source, tmp_path / "shared", 2, 2, cp_size=3)
    mapping = json.loads((folder / "config.json").read_text())["mapping"]
    assert mapping == {"world_size": 12, "tp_size": 2, "pp_size": 2, "cp_size": 3}
    files = {f"rank{r % 2 + r // (2 * 3) * 2}.safetensors" for r in range(12)}
    assert {file.name for file in folder.glob("rank*")} == files
    plain = convert(source, tmp_path / "plain", 2, 2)
    assert {n: contents(folder)[n] for n in files} == {n: contents(plain)[n] for n in files}
    assert contents(convert(folder, tmp_path / "again", 2, 2)) == contents(plain)
    assert contents(convert(folder, tmp_path / "one")) == contents(convert(source, tmp_path / "direct"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mixtral", {"tp_size": 4, "moe_ep_size": 3}, (
            "moe_tp_size * moe_ep_size is 1 * 3, but must be tp_size, 4"
        )),
        ("mixtral", {"tp_size": 4, "moe_tp_size": 4, "moe_ep_size": 2}, (
            "moe_tp_size * moe_ep_size is 4 * 2, but must be tp_size, 4"
        )),
        ("mixtral", {"tp_size": 8, "moe_ep_size": 8}, (
            "num_attention_heads is 4, but must be a multiple of tp_size, 8"
        )),
        ("mixtral-window5-3of5-tied", {"tp_size": 2, "moe_ep_size": 2}, (
            "transformer.layers.0.mlp.fc.weight is [5, 48, 32], but its 5 must be a multiple of moe_ep_size, 2"
        )),
        ("qwen3-moe-norm-dense-layer-bias", {"tp_size": 4, "moe_tp_size": 4, "pp_size": 9}, (
            "pp_size is 9, but must be at most the 3 layers of the model"
        )),
        ("mha", {"tp_size": 2, "moe_ep_size": 2}, "moe_ep_size is 2, but must be 1: the model has no experts"),
        ("mha", {"cp_size": 0}, "cp_size is 0, but must be at least 1"),
    ],
)   # fmt: skip
def test_errors(name: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(TrtcError) as error:
        trtc.convert(models.checkpoint(name), tmp_path / "ranks", **options)
    assert str(error.value) == f"error: {message}"
    assert not list(tmp_path.iterdir())


sizes = st.none() | st.integers(-2, 6) | st.sampled_from([1 << 40, "2", 2.0, True])
NAMES = ("world_size", "tp_size", "pp_size", "cp_size", "moe_tp_size", "moe_ep_size", "moe_cluster_size")
mappings = st.dictionaries(st.sampled_from(NAMES), sizes, max_size=5)
modes = st.none() | st.integers(-1, 3) | st.just("1")


def test_any_mapping_is_taken_or_refused(tmp_path: Path) -> None:
    """And what is taken has the weights of the model."""
    folder = convert(models.checkpoint("mixtral"), tmp_path / "ranks", 2, ep=2)
    config, expected = json.loads((folder / "config.json").read_text()), models.weights_of_model(folder)
    taken: list[bool] = []

    @settings(max_examples=cases(600), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(mappings, modes, modes)
    def property(mapping: dict[str, Any], mode: Any, older: Any) -> None:
        changed = {**config, "mapping": {**config["mapping"], **mapping}, "moe_tp_mode": older}
        changed["moe"] = {**config["moe"], "tp_mode": mode}
        (folder / "config.json").write_text(json.dumps(changed))
        try:
            found = models.weights_of_model(folder)
        except TrtcError:
            return
        taken.append(True)
        assert all(np.array_equal(found[role], array) for role, array in expected.items())

    property()
    assert taken


def test_the_original_s_own_option_for_what_follows(tmp_path: Path) -> None:
    """-1, as --moe_tp_size and --moe_ep_size were where nothing was said."""
    source = models.checkpoint("mixtral")
    whole = convert(source, tmp_path / "whole", 2, ep=2)
    assert contents(convert(source, tmp_path / "same", 2, ep=-1, moe_tp_size=1)) == contents(whole)
