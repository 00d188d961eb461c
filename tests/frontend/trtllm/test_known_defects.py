"""Mistakes that TensorRT-LLM made, each of which must not come back here: a table of them, and a test for each."""

from __future__ import annotations

import json
import pkgutil
import sys
import tracemalloc
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import quantizers
import rank_quantizers
from rank_files import CASE, quantise, weight

import trtc
import trtc.cli
from trtc import converter
from trtc.errors import TrtcError
from trtc.frontend import open_checkpoint
from trtc.frontend.config import Keys
from trtc.frontend.sources.mapped import MappedSource
from trtc.frontend.trtllm.quantization import read_quantization
from trtc.frontend.trtllm.reader import read_mapping

for module in Path(models.__file__).parent.glob("*cases*.py"):
    import_module(module.stem)   # adds its cases to those that are known
torch = models.torch
save: Any = import_module("safetensors.torch").save_file
TESTS: dict[str, tuple[str, ...]] = {
    "llama/convert.py: the GPTQ loader takes the source's layer by its number within the stage": (
        "test_later_stages_have_their_own_layers", "test_later_stages_of_gptq_have_their_own_layers",
    ),
    "llama/convert.py: the bias of q, k and v is taken for 3 x hidden_size": (
        "test_biases_of_grouped_heads_are_divided_as_their_weights_are",
    ),
    "llama/convert.py: lm_head.weight is read though the model is tied": ("test_tied_embeddings_need_no_lm_head",),
    "llama/convert_checkpoint.py: has_zero_point is taken from sym, inverted": (
        "test_zeros_are_subtracted_whatever_sym_says", "test_zeros_are_added_whatever_has_zero_point_says",
    ),
    "modeling_utils.py: the module fnmatch is called": ("test_layers_are_matched_by_patterns",),
    "modeling_utils.py: per_token_scale of a shared embedding becomes lm_head's per_channel_scale": (
        "test_lm_head_has_its_own_scales_beside_an_embedding_s",
    ),
    "mapping.py: ranks < 0 and >= world at once are refused, so none is": (
        "test_ranks_make_up_the_world", "test_a_file_of_a_rank_outside_the_world_is_refused",
    ),
    "mapping.py: the check of auto-parallel asks for tp twice, never for cp": ("test_ranks_make_up_the_world",),
    "commands/build.py: gather_generation_logits is called deprecated though nobody asked for it": (
        "test_nothing_is_called_deprecated_unasked",
    ),
    "models/__init__.py: a comma is missing between two exported names": ("test_every_exported_name_exists",),
    "documents: group_size is 64 by default, in the code 128": ("test_the_group_size_is_that_of_its_generation",),
    "documents: down_proj, gate_proj and up_proj stand for names of the format": (
        "test_no_name_of_the_source_is_one_of_the_format",
    ),
    "documents: two ranks' files under 1-gpu": ("test_there_are_as_many_files_as_the_config_maps",),
    "gemma's converter: the model is loaded world_size times, and there are no stages": (
        "test_gemma_is_opened_once_and_takes_stages",
    ),
    "workers: threads of one process that holds the whole model": ("test_workers_hold_no_model",),
}   # fmt: skip
NOT_HERE = {
    "plugin.py: the size of Lamport buffers asks whether a function is true, not what it returns": (
        "trtc has no plugin for all-reduce: it allocates no such buffers, and asks for no such size"
    ),
}


def test_every_mistake_has_its_test() -> None:
    named = {name for names in TESTS.values() for name in names}
    here = {name for name in globals() if name.startswith("test_")}
    assert named == here - {"test_every_mistake_has_its_test"} and len(TESTS) == 15 and len(NOT_HERE) == 1


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


def test_later_stages_of_gptq_have_their_own_layers(tmp_path: Path) -> None:
    """llama/convert.py: the loader of GPTQ's weights itself, whose later stages had those of layer 0 and on again."""
    plain = models.write(models.Case("gptq", {"hidden_size": 64, "intermediate_size": 64}), tmp_path / "plain")
    meant = quantizers.quantise(quantizers.SCHEMES["gptq-4"], plain, tmp_path / "gptq")
    trtc.convert(tmp_path / "gptq", tmp_path / "ranks", pp_size=2, dtype="float32")
    for stage in range(2):
        tensors = models.torch_tensors(tmp_path / f"ranks/rank{stage}.safetensors")
        found = tensors["transformer.layers.0.mlp.fc.weight"]
        assert torch.equal(found, meant[f"model.layers.{stage}.mlp.gate_proj.weight"])


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


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("name", ["gptq-4", "gptq-4-sym-columns"])
def test_zeros_are_subtracted_whatever_sym_says(name: str, sym: bool, tmp_path: Path) -> None:
    """llama/convert_checkpoint.py: GPTQ's sym was passed on as has_zero_point. Here qzeros decide, which are there."""
    plain = models.write(models.Case("gptq", {"hidden_size": 64, "intermediate_size": 64}), tmp_path / "plain")
    scheme = quantizers.SCHEMES[name]
    scheme = quantizers.Scheme({**scheme.config, "sym": sym}, scheme.make)
    meant = quantizers.quantise(scheme, plain, tmp_path / "gptq")["model.layers.1.mlp.up_proj.weight"]
    np.testing.assert_array_equal(weight(tmp_path / "gptq", "transformer.layers.1.mlp.gate.weight", 64, 64), meant)


@pytest.mark.parametrize("stated", [True, False])
def test_zeros_are_added_whatever_has_zero_point_says(stated: bool, tmp_path: Path) -> None:
    """The same in what that script wrote, where has_zero_point is wrong: the tensors are right."""
    scheme = rank_quantizers.SCHEMES["gptq-4"]
    scheme = rank_quantizers.Scheme(scheme.make, {**scheme.section, "has_zero_point": stated})
    plain = models.write(CASE, tmp_path / "plain")
    meant = quantise(scheme, plain, tmp_path / "ranks", 1)["model.layers.1.mlp.up_proj.weight"]
    np.testing.assert_array_equal(weight(tmp_path / "ranks", "transformer.layers.1.mlp.gate.weight", 320, 64), meant)


def test_layers_are_matched_by_patterns(tmp_path: Path) -> None:
    """modeling_utils.py, LayerQuantConfig: every look-up of MIXED_PRECISION raised. More in test_mixed_precision.py."""
    plain, section = models.write(CASE, tmp_path / "plain"), {"quant_algo": "MIXED_PRECISION"}
    fp8 = rank_quantizers.SCHEMES["fp8"]
    meant = quantise(rank_quantizers.Scheme(fp8.make, section), plain, tmp_path / "ranks", 1)
    layers = {"transformer.layers.*": {"quant_algo": "FP8"}}
    (tmp_path / "ranks/quant_cfg.json").write_text(json.dumps({**section, "quantized_layers": layers}))
    want = meant["model.layers.1.mlp.down_proj.weight"]
    np.testing.assert_array_equal(weight(tmp_path / "ranks", "transformer.layers.1.mlp.proj.weight", 64, 320), want)


def test_lm_head_has_its_own_scales_beside_an_embedding_s(tmp_path: Path) -> None:
    """modeling_utils.py, share_embedding: the embedding's scales by token became lm_head's by row."""
    plain, scheme = models.write(CASE, tmp_path / "plain"), rank_quantizers.SCHEMES["fp8-rows"]
    meant = quantise(scheme, plain, tmp_path / "ranks", 1)
    made, head = scheme.make("lm_head", meant["lm_head.weight"])
    other = {"transformer.vocab_embedding.per_token_scale": torch.full((97,), 7.0)}
    file = tmp_path / "ranks/rank0.safetensors"
    kept = {key: tensor for key, tensor in models.torch_tensors(file).items() if not key.startswith("lm_head")}
    save({**kept, **made, **other}, file)
    assert not np.array_equal(head, meant["lm_head.weight"])
    np.testing.assert_array_equal(weight(tmp_path / "ranks", "lm_head.weight", 97, 64), head)
    embedding = weight(tmp_path / "ranks", "transformer.vocab_embedding.weight", 97, 64)
    np.testing.assert_array_equal(embedding, meant["model.embed_tokens.weight"])
    save({**kept, **other}, file)   # without lm_head: the embedding serves as one, and no scale is copied
    assert models.opened(tmp_path / "ranks").config.tie_word_embeddings
    trtc.convert(tmp_path / "ranks", tmp_path / "again")
    again = models.torch_tensors(tmp_path / "again/rank0.safetensors")["lm_head.weight"]
    np.testing.assert_array_equal(again.numpy(), embedding)


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
    found = [m.name for m in pkgutil.walk_packages(trtc.__path__, "trtc.") if not m.name.endswith("__main__")]
    checked = 0
    for name in ("trtc", *found):
        module = import_module(name)
        for exported in getattr(module, "__all__", ()):
            assert hasattr(module, exported), f"{name} exports {exported}, which it has not"
            checked += 1
    assert checked > 100


def test_the_group_size_is_that_of_its_generation() -> None:
    """The documents said 64, the code 128; both hold, each for its time."""
    old, new = {"use_weight_only": True}, {"quant_algo": "W4A16_AWQ"}
    sizes = [read_quantization(Keys(section, "config.json", "quantization.")).group_size for section in (old, new)]
    assert sizes == [64, 128]


def test_no_name_of_the_source_is_one_of_the_format(tmp_path: Path) -> None:
    """The loader's document gave Hugging Face's names as those of the format."""
    names = {name for tensors in ranks("mha", tmp_path / "ranks", tp_size=2) for name in tensors}
    parts = {part for name in names for part in name.split(".")}
    assert {"fc", "gate", "proj"} <= parts and not parts & {"down_proj", "gate_proj", "up_proj", "model"}


def test_nothing_is_called_deprecated_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """commands/build.py: every build warned of an option that nobody had given."""
    flags = ["--target", "onnx", "--max-seq-len", "16", "-o", str(tmp_path / "engine")]
    monkeypatch.setattr(sys, "argv", ["trtc", "compile", str(models.checkpoint("mha")), *flags])
    with warnings.catch_warnings(record=True) as caught, pytest.raises(SystemExit) as ended:
        warnings.simplefilter("always")
        trtc.cli.main()
    out, err = capsys.readouterr()
    assert not ended.value.code and (tmp_path / "engine/engine.json").is_file()
    assert "deprecat" not in (out + err).lower() and not [w for w in caught if "gather" in str(w.message)]


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
    assert (source / "model.safetensors").stat().st_size > 45e6 and peak < 8e6   # blocks of four casts, and the plan
    assert converter.recorded(models.opened(source))
