"""Mistakes that TensorRT-LLM's converters made, each of which must not come back here."""

from __future__ import annotations

import json
import pkgutil
import tracemalloc
from importlib import import_module
from pathlib import Path
from typing import Any

import family_cases
import models
import pytest

import trtc
from trtc import converter
from trtc.errors import TrtcError
from trtc.frontend import open_checkpoint
from trtc.frontend.config import Keys
from trtc.frontend.sources.mapped import MappedSource
from trtc.frontend.trtllm.quantization import read_quantization
from trtc.frontend.trtllm.reader import read_mapping

assert family_cases.FAMILY_CASES   # are among those that are known
torch = models.torch


def ranks(name: str, folder: Path, **options: Any) -> list[dict[str, Any]]:
    """The tensors of each rank."""
    done = trtc.convert(models.checkpoint(name), folder, **options)
    return [models.torch_tensors(folder / f"rank{n}.safetensors") for n in range(done.ranks)]


@pytest.mark.parametrize("name", ["mha", "gemma2", "starcoder2-window4"])
def test_later_stages_have_their_own_layers(name: str, tmp_path: Path) -> None:
    """llama/convert.py, GPTQ loader: the source's layer was counted from 0 in each stage."""
    hf = models.torch_tensors(models.checkpoint(name))
    layers = 1 + max(int(key.split(".")[2]) for key in hf if key.startswith("model.layers."))
    stages = ranks(name, tmp_path / "ranks", pp_size=2)
    name = "transformer.layers.{}.input_layernorm.weight"
    found = [stage[name.format(n)] for stage in stages for n in range(layers) if name.format(n) in stage]
    want = [hf[f"model.layers.{n}.input_layernorm.weight"] for n in range(layers)]
    assert len(found) == layers and all(map(torch.equal, found, want))


def test_biases_of_grouped_heads_are_divided_as_their_weights_are(tmp_path: Path) -> None:
    """llama/convert.py, Hugging Face loader: the bias of q, k and v was taken for 3 x hidden_size."""
    hf = models.torch_tensors(models.checkpoint("biases-gelu-head10"))
    for place, tensors in enumerate(ranks("biases-gelu-head10", tmp_path / "ranks", tp_size=2)):
        own = [hf[f"model.layers.0.self_attn.{part}_proj.bias"].chunk(2)[place] for part in "qkv"]
        assert torch.equal(tensors["transformer.layers.0.attention.qkv.bias"], torch.cat(own))


def test_tied_embeddings_need_no_lm_head(tmp_path: Path) -> None:
    """llama/convert.py, Hugging Face loader: lm_head.weight was read though the model is tied and has none."""
    assert "lm_head.weight" not in models.torch_tensors(models.checkpoint("gqa-tied-head16"))
    (tensors,) = ranks("gqa-tied-head16", tmp_path / "ranks")
    assert torch.equal(tensors["lm_head.weight"], tensors["transformer.vocab_embedding.weight"])
    assert models.opened(tmp_path / "ranks").config.tie_word_embeddings


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"world_size": 2}, "2, but must be tp_size * pp_size * cp_size, 1 * 1 * 1"),
        ({"world_size": 2, "tp_size": 2, "cp_size": 2}, "2, but must be tp_size * pp_size * cp_size, 2 * 1 * 2"),
        ({"world_size": 4, "tp_size": 2, "pp_size": 1}, "4, but must be tp_size * pp_size * cp_size, 2 * 1 * 1"),
    ],
)   # fmt: skip
def test_ranks_make_up_the_world(mapping: dict[str, int], message: str) -> None:
    """mapping.py: the check of ranks asked for `< 0 and >= world`, and another asked for tp twice and never for cp."""
    with pytest.raises(TrtcError) as error:
        read_mapping(Keys({"mapping": mapping}, "config.json"))
    assert str(error.value) == f"error: config.json: mapping.world_size is {message}"
    whole = {"world_size": 12, "tp_size": 2, "pp_size": 3, "cp_size": 2}
    assert read_mapping(Keys({"mapping": whole}, "config.json")).files == 6   # context-parallel ranks share files


def test_a_file_of_a_rank_outside_the_world_is_refused(tmp_path: Path) -> None:
    """mapping.py: a rank beyond the world was never found out."""
    ranks("mha", tmp_path / "ranks", tp_size=4)
    config = json.loads((tmp_path / "ranks/config.json").read_text())
    config["mapping"] = {"world_size": 2, "tp_size": 2}
    (tmp_path / "ranks/config.json").write_text(json.dumps(config))
    with pytest.raises(TrtcError) as error:
        open_checkpoint(tmp_path / "ranks")
    assert "rank2.safetensors lies in " in str(error.value) and "maps ranks 0 to 1" in str(error.value)


def test_every_exported_name_exists() -> None:
    """models/__init__.py: a comma was missing, and two exported names became one that does not exist."""
    packages = ["trtc", *(m.name for m in pkgutil.walk_packages(trtc.__path__, "trtc.") if m.ispkg)]
    checked = 0
    for name in packages:
        package = import_module(name)
        for exported in getattr(package, "__all__", ()):
            assert hasattr(package, exported), f"{name} exports {exported}, which it has not"
            checked += 1
    assert checked > 100


def test_the_group_size_is_that_of_its_generation() -> None:
    """The documents said 64, the code 128; both hold, each for its time."""
    old, new = {"use_weight_only": True}, {"quant_algo": "W4A16_AWQ"}
    sizes = [read_quantization(Keys(section, "config.json", "quantization.")).group_size for section in (old, new)]
    assert sizes == [64, 128]


@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (2, 1), (2, 2)])
def test_there_are_as_many_files_as_the_config_maps(tp: int, pp: int, tmp_path: Path) -> None:
    """The document of the format showed two ranks' files under a name that says one."""
    ranks("mha", tmp_path / "ranks", tp_size=tp, pp_size=pp)
    files = sorted(file.name for file in (tmp_path / "ranks").glob("rank*"))
    assert files == [f"rank{n}.safetensors" for n in range(tp * pp)]
    mapping = json.loads((tmp_path / "ranks/config.json").read_text())["mapping"]
    assert mapping == {"world_size": tp * pp, "tp_size": tp, "pp_size": pp}


def test_gemma_is_opened_once_and_takes_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The converter of Gemma loaded the model once for each rank, and knew no pipeline stages."""
    opened: list[Path] = []
    find = MappedSource.__init__

    def count(self: MappedSource, folder: Path, *rest: Any, **options: Any) -> None:
        opened.append(folder)
        find(self, folder, *rest, **options)

    monkeypatch.setattr(MappedSource, "__init__", count)
    assert len(ranks("gemma2", tmp_path / "ranks", tp_size=2, pp_size=2)) == 4
    assert opened == [models.checkpoint("gemma2")]


def test_workers_hold_no_model(tmp_path: Path) -> None:
    """Conversion ran in threads of one process that held the whole model."""
    config = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 12}
    source = models.write(models.Case("wide", config), tmp_path / "model")
    tracemalloc.start()
    try:
        trtc.convert(source, tmp_path / "ranks", tp_size=2, workers=4, dtype="float16")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (source / "model.safetensors").stat().st_size > 45e6 and peak < 8e6   # four casts, and the plan
    assert converter.recorded(models.opened(source))
