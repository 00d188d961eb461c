"""Distributed checkpoints of NeMo 1: the same model as in Hugging Face's form.

``data/megatron.tar.xz`` holds random models that megatron-core 0.16.1 itself made and saved in its form torch_dist, on
one rank or two, with the logits of its own forward pass over 12 tokens.
"""

from __future__ import annotations

import json
import pickle
import re
import sys
import tarfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import distributed_files
import models
import nemo_files
import numpy as np
import pytest
from distributed_models import BIASED, EXPERTS, LLAMA, NORMS, TIED, WINDOWS, error_of, state_of
from fuzz import cases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import LIMITS, Case
from sources import damaged, same_weights

import trtc
from trtc.compiler import read_model
from trtc.errors import TrtcError
from trtc.frontend.sources.megatron import DistributedSource
from trtc.frontend.sources.nemo import members_of
from trtc.frontend.weights import Weights
from trtc.ir.graph import Graph
from trtc.ir.types import evaluate, f32

pytest.importorskip("tensorstore")
torch: Any = import_module("torch")
yaml: Any = import_module("yaml")
load_file: Any = import_module("safetensors.torch").load_file

def write_first(
    case: Case, folder: Path, *, stack: bool = True, parts: int = 1, zarr: Any = "", **raw: Any
) -> tuple[Path, Path]:
    """The model in both forms: Hugging Face's folder, and a folder of NeMo 1's."""
    hf, config, state = state_of(case, folder, stack=stack)
    nemo = folder / "nemo"
    (nemo / "model_weights").mkdir(parents=True)
    (nemo / "model_config.yaml").write_text(yaml.safe_dump(nemo_files.yaml_of(config, mcore_gpt=True, **raw)))
    if zarr == "":
        distributed_files.write_torch(state, nemo / "model_weights", parts)
    else:
        distributed_files.write_zarr(state, nemo / "model_weights", zarr, parts)
    return hf, nemo


def packed(folder: Path) -> Path:
    """An archive of a folder."""
    archive = folder.with_suffix(".nemo")
    files = {name: member.read(1 << 30) for name, member in members_of(folder).items()}
    nemo_files.pack(archive, files)
    return archive


ROUTED = {"num_moe_experts": 4, "moe_router_topk": 2, "moe_grouped_gemm": True}
BLOSC = {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1}
FORMS: dict[str, tuple[Case, dict[str, Any]]] = {
    "stacked": (LLAMA, {}),
    "stacked-tp2": (LLAMA, {"parts": 2}),
    "by-layer-tp4": (LLAMA, {"parts": 4, "stack": False}),
    "tied-tp4": (TIED, {"parts": 4}),
    "experts": (EXPERTS, ROUTED),
    "experts-tp2": (EXPERTS, {**ROUTED, "parts": 2}),
    "experts-by-layer-tp2": (EXPERTS, {**ROUTED, "parts": 2, "stack": False}),
    "windows": (WINDOWS, {"window_size": [6, 0]}),
    "norms-of-q-and-k": (NORMS, {"qk_layernorm": True, "kv_channels": 16}),
    "biases-tp2": (BIASED, {"normalization": "layernorm", "bias": True, "activation": "gelu", "parts": 2}),
    "zarr": (LLAMA, {"zarr": None}),
    "zarr-tp3": (LLAMA, {"zarr": None, "parts": 3}),
    "zarr-bf16-tp2": (TIED, {"zarr": None, "parts": 2}),
    "zarr-blosc-tp2": (LLAMA, {"zarr": BLOSC, "parts": 2}),
    "zarr-zlib-bf16": (TIED, {"zarr": {"id": "zlib", "level": 1}, "stack": False}),
}   # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_those_of_the_hugging_face_form(form: str, tmp_path: Path) -> None:
    case, written = FORMS[form]
    hf, nemo = (models.opened(path) for path in write_first(case, tmp_path, **written))
    assert nemo.format == "nemo" and nemo.dtype == hf.dtype == case.dtype
    same = {"architecture": "", "rope": hf.config.rope, "norm_eps": 0}
    ours, theirs = ({**vars(c.config), **same} for c in (nemo, hf))
    assert ours == theirs
    same_weights(hf, nemo)
    assert not any(key.startswith("optimizer") for key in nemo.source)


@pytest.mark.parametrize("form", ["stacked-tp2", "zarr-tp3"])
def test_the_members_of_an_archive_are_read_where_they_lie(form: str, tmp_path: Path) -> None:
    case, written = FORMS[form]
    hf, nemo = write_first(case, tmp_path, **written)
    checkpoint = models.opened(packed(nemo))
    same_weights(models.opened(hf), checkpoint)
    assert {entry.file for entry in checkpoint.source.entries.values()} == {tmp_path / "nemo.nemo"}
    assert not any(checkpoint.source[key].flags.owndata for key in checkpoint.source)


def test_a_layer_is_read_without_the_others(tmp_path: Path) -> None:
    """Of a stacked tensor in 4 parts, a layer's weight is made of the 2 that hold some of it."""
    _, nemo = write_first(LLAMA, tmp_path, parts=2)
    assert read_of(nemo) == {(1, 0, 0), (1, 16, 0)}


def read_of(nemo: Path) -> set[tuple[int, ...]]:
    """Where the parts start that the second layer's weight is made of."""
    checkpoint = models.opened(nemo)
    role = "transformer.layers.1.attention.dense.weight"
    weight = Weights(checkpoint.source, checkpoint.expression, f32)(role, 32, 32)
    assert isinstance(checkpoint.source, DistributedSource)
    stored = checkpoint.source.tiles["model.decoder.layers.self_attention.linear_proj.weight"].tiles
    read = set(map(str, re.findall(r'key = "([^"]+)"', str(Graph("w", (), {"w": weight}, {})))))
    found = {tile.start for tile in stored if tile.key in read}
    assert len(found) == len(read)
    return found


def test_a_layer_of_a_compressed_array_is_read_without_the_others(tmp_path: Path) -> None:
    _, nemo = write_first(LLAMA, tmp_path, zarr=BLOSC)
    assert read_of(nemo) == {(1, 0, 0)}


@pytest.fixture(scope="session")
def made_by_megatron(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("megatron")
    with tarfile.open(Path(__file__).parent / "data/megatron.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "megatron"


@pytest.mark.parametrize("name", ["llama-tp2", "norms", "biases-tp2", "experts", "experts-first", "experts-apart"])
def test_logits_are_those_of_megatron_core(made_by_megatron: Path, name: str) -> None:
    """Plain; norms of q and k; layer norms and biases; experts in both orders, stacked and each by itself."""
    expected = json.loads((made_by_megatron / name / "expected.json").read_text())
    ids = np.array([expected["ids"]], np.int32)
    sizes: dict[str, Any] = {"max_batch_size": 1, "max_input_len": 12, "max_seq_len": 12}
    model = read_model(made_by_megatron / name, dtype="float32", all_logits=True, **sizes)
    caches = {
        i.key: np.zeros([evaluate(size, {"B": 1, "M": 12}) for size in i.shape], i.dtype.numpy)
        for i in model.graph.inputs if i.key.endswith("_cache")
    }   # fmt: skip
    step = {"input_ids": ids, "input_lengths": np.array([12], np.int32), "past_lengths": np.zeros(1, np.int32)}
    logits = model.graph.evaluate({**model.checkpoint.source, **caches, **step})["logits"]
    np.testing.assert_allclose(logits.reshape(12, 32), expected["logits"], rtol=0, atol=2e-5)   # orders of sums
    assert np.std(expected["logits"]) > 0.5


@pytest.mark.parametrize("form", ["experts-tp2", "windows"])
def test_an_engine_gives_the_logits_of_transformers(form: str, tmp_path: Path) -> None:
    case, written = FORMS[form]
    hf, nemo = write_first(case, tmp_path, **written)
    expected = np.stack(models.fresh_reference(hf, case, "float32"))
    bundle = trtc.compile(nemo, tmp_path / "engine", target="onnx", dtype="float32", **LIMITS)
    assert bundle.source.format == "nemo"
    np.testing.assert_allclose(models.engine_logits(bundle, case), expected, rtol=0, atol=2e-4)   # orders of sums


def test_chunks_that_are_missing(tmp_path: Path) -> None:
    _, nemo = write_first(LLAMA, tmp_path, zarr=None, parts=2)
    folder = nemo / "model_weights/model.decoder.layers.self_attention.linear_proj.weight"
    name = "array model.decoder.layers.self_attention.linear_proj.weight"
    first = folder / "0.0.0"
    first.write_bytes(first.read_bytes()[:-1])
    assert error_of(nemo) == f"chunk 0.0.0 of {name} has 2047 bytes, but must have 2048"
    first.unlink()
    assert error_of(nemo) == f"chunk 0.0.0 of {name} is missing\n  = help: fetch the checkpoint again"
    (folder / ".zarray").write_text("{}")
    assert error_of(nemo) == f".zarray of {name} cannot be read: 'shape'"


def test_compressed_arrays_need_a_folder_and_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, nemo = write_first(LLAMA, tmp_path, zarr=BLOSC)
    name = "model.decoder.final_layernorm.weight"
    assert error_of(packed(nemo)) == (
        f"nemo.nemo: array {name} is compressed, but must lie in a folder\n"
        "  = help: unpack it, and give the folder: mkdir FOLDER && tar -xf nemo.nemo -C FOLDER"
    )
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    assert error_of(nemo) == (
        "tensorstore is needed to read compressed arrays of zarr, but is not installed\n"
        "  = help: pip install 'trtc[jax]'"
    )


AGAIN = "\n  = help: the file is cut short or is no checkpoint; fetch it again"


def rewritten(change: Callable[[Any], object], folder: Path) -> None:
    """Change what .metadata says, with torch's own classes."""
    file = folder / "model_weights/.metadata"
    stated = pickle.loads(file.read_bytes())
    change(stated)
    file.write_bytes(pickle.dumps(stated))


PROJ = "model.decoder.layers.self_attention.linear_proj.weight"
M = ".metadata: .metadata cannot be read: "


def places(stated: Any) -> list[Any]:
    return [place for index, place in stated.storage_data.items() if index.fqn == PROJ]


def drop(stated: Any) -> None:
    stated.storage_data = {k: v for k, v in stated.storage_data.items() if k.fqn != PROJ}


METADATA: list[tuple[Callable[[Any], object], str]] = [
    (drop, f"{M}('{PROJ}', (0, 0, 0)){AGAIN}"),
    (lambda s: setattr(places(s)[0], "relative_path", "../x"), (
        f"{M}../x, which holds tensor {PROJ}, is missing{AGAIN}"
    )),
    (lambda s: setattr(places(s)[0], "offset", 1 << 40), f"{M}__0_"),
    (lambda s: setattr(places(s)[0], "transform_descriptors", ["zstd"]), (
        f"{M}tensor {PROJ} is stored in another form than torch.save's{AGAIN}"
    )),
    (lambda s: s.state_dict_metadata[PROJ].chunks.pop(0), (
        f"tensor {PROJ} cannot be put together: its parts do not make up [0, 0, 0]..[1, 32, 32]\n"
        "  = help: fetch the checkpoint again"
    )),
    (lambda s: s.state_dict_metadata[PROJ].chunks.clear(), f"{M}tensor {PROJ} has no parts{AGAIN}"),
    (lambda s: setattr(s.state_dict_metadata[PROJ], "size", (2, 32)), (
        f"{M}tensor {PROJ} has parts that are not of its axes, or twice the same{AGAIN}"
    )),
    (lambda s: setattr(s, "planner_data", Path("x")), ""),
    (lambda s: setattr(s, "planner_data", print), (
        ".metadata asks for builtins.print, but a checkpoint needs tensors alone\n"
        "  = help: such a pickle can run code; get the checkpoint as safetensors"
    )),
]   # fmt: skip


@pytest.mark.parametrize(("change", "message"), METADATA, ids=range(len(METADATA)))
def test_metadata_that_does_not_fit(change: Callable[[Any], object], message: str, tmp_path: Path) -> None:
    hf, nemo = write_first(LLAMA, tmp_path, parts=2)
    rewritten(change, nemo)
    if not message:
        same_weights(models.opened(hf), models.opened(nemo))
        return
    got = error_of(nemo)
    assert got == message or (message.endswith("__0_") and got.startswith(message) and got.endswith(AGAIN))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tensor in four parts, by both backends."""
    folder = tmp_path_factory.mktemp("tiny")
    state = {"x": torch.arange(24.0).reshape(4, 6)}
    distributed_files.write_torch(state, folder / "torch", 2)
    distributed_files.write_zarr(state, folder / "zarr/weights", None, 2)
    return folder


@settings(max_examples=cases(1000), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_is_refused_or_harmless(tiny: Path, tmp_path: Path, data: st.DataObject) -> None:
    form, home = data.draw(st.sampled_from([("torch", ""), ("zarr", "weights/")]))
    files = {name: member.read(1 << 20) for name, member in members_of(tiny / form).items()}
    name = data.draw(st.sampled_from(sorted(files)))
    with tarfile.open(tmp_path / "a.tar", "w:"):
        pass
    nemo_files.pack(tmp_path / "a.tar", {**files, name: damaged(files[name], data)})
    try:
        source = DistributedSource(tmp_path / "a.tar", members_of(tmp_path / "a.tar"), home)
    except TrtcError:
        return
    for key, entry in source.entries.items():
        assert 0 <= entry.start <= entry.stop <= (tmp_path / "a.tar").stat().st_size
        if entry.dtype in source.dtypes:
            assert source[key].nbytes == entry.stop - entry.start
