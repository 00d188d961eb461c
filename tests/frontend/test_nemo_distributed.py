"""Distributed checkpoints of NeMo 1, NeMo 2 and Megatron Bridge: the same model as in Hugging Face's form.

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
from fuzz import cases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import LIMITS, Case
from sources import damaged, same_weights

import trtc
from trtc.compiler import read_model
from trtc.errors import TrtcError
from trtc.frontend import Limits, open_checkpoint
from trtc.frontend.nemo_config import nemo_config
from trtc.frontend.nemo_lightning import translated
from trtc.frontend.sources.megatron import DistributedSource
from trtc.frontend.sources.nemo import members_of
from trtc.frontend.sources.tiles import Cut, Joint, Tile, Tiles, plan
from trtc.frontend.weights import Weights
from trtc.ir.graph import Graph
from trtc.ir.types import evaluate, f32

pytest.importorskip("tensorstore")
torch: Any = import_module("torch")
yaml: Any = import_module("yaml")
load_file: Any = import_module("safetensors.torch").load_file

LLAMA = Case("distributed", {"num_key_value_heads": 2, "vocab_size": 96})
TIED = Case("distributed-tied-bf16", {"tie_word_embeddings": True, "num_hidden_layers": 4, "vocab_size": 96},
            dtype="bfloat16")   # fmt: skip
EXPERTS = Case("distributed-experts", {
    "vocab_size": 96, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None,
    "num_key_value_heads": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}, model="Mixtral")   # fmt: skip
WINDOWS = Case("distributed-windows", {
    "vocab_size": 96, "sliding_window": 6, "num_key_value_heads": 2,
}, model="Mistral")   # fmt: skip
SCALED = Case("distributed-llama3", {
    "vocab_size": 96, "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
})   # fmt: skip
NORMS = Case("distributed-qk-norms", {"vocab_size": 96, "head_dim": 16, "num_key_value_heads": 2}, model="Qwen3")
BIASED = Case("distributed-biases", {
    "num_key_value_heads": 2, "use_bias": True, "sliding_window": None, "norm_epsilon": 1e-5,
    "tie_word_embeddings": False, "vocab_size": 96,
}, model="Starcoder2")   # fmt: skip


def state_of(case: Case, folder: Path, *, stack: bool, **form: Any) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """Hugging Face's folder, its config, and the same model's tensors under Megatron Core's names."""
    hf = models.write(case, folder / "hf")
    config = json.loads((hf / "config.json").read_text())
    tensors = load_file(hf / "model.safetensors")
    ((state,),) = nemo_files.Writer(tensors, config, core=True, fused_norms=True, **form).write()
    plain = {key: tensor for key, tensor in state.items() if isinstance(tensor, torch.Tensor)}
    return hf, config, distributed_files.stacked(plain) if stack else plain


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


def function(name: str) -> dict[str, Any]:
    return {"_call_": False, "_target_": name}


def lightning(config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The fields of a config of NeMo 2 or Megatron Bridge, as both dump them."""
    rope = config["rope_parameters"]
    return {
        "_target_": "nemo.collections.llm.gpt.model.llama.Llama3Config8B", "activation_func": function(
            "torch.nn.functional.silu"
        ), "add_bias_linear": False, "add_qkv_bias": False, "bias_activation_fusion": True, "fp8": None,
        "gated_linear_unit": True, "hidden_size": config["hidden_size"], "kv_channels": config.get("head_dim"),
        "ffn_hidden_size": config["intermediate_size"], "layernorm_epsilon": 1e-5,
        "layernorm_zero_centered_gamma": False, "normalization": "RMSNorm",
        "num_attention_heads": config["num_attention_heads"], "num_layers": config["num_hidden_layers"],
        "num_query_groups": config.get("num_key_value_heads"),
        "moe_router_topk": 2, "num_moe_experts": None, "position_embedding_type": "rope", "qk_layernorm": False,
        "rotary_base": rope["rope_theta"], "rotary_interleaved": False, "rotary_percent": 1.0,
        "seq_len_interpolation_factor": None, "seq_length": 64, "softmax_scale": None, "window_size": None,
        "share_embeddings_and_output_weights": config["tie_word_embeddings"], "multi_latent_attention": False,
        **changes,
    }   # fmt: skip


LLAMA3 = {"scale_factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "old_context_len": 32}
IDS = {"generation_config": {"config_dict": {"bos_token_id": 7, "eos_token_id": [8, 9], "pad_token_id": None}}}
SECOND: dict[str, tuple[Case, dict[str, Any]]] = {
    "llama": (LLAMA, {}), "llama-3.1": (SCALED, LLAMA3), "tied": (TIED, {}), "mixtral": (EXPERTS, {
        "num_moe_experts": 4, "_target_": "nemo.collections.llm.gpt.model.mixtral.MixtralConfig8x7B",
    }), "mistral": (WINDOWS, {"window_size": [6, 0]}), "qwen3": (NORMS, {"qk_layernorm": True}), "biases": (BIASED, {
        "normalization": "LayerNorm", "add_bias_linear": True, "gated_linear_unit": False,
        "activation_func": function("torch.nn.functional.gelu"),
    }),
}   # fmt: skip


def write_second(case: Case, folder: Path, *, bridge: bool = False, **changes: Any) -> tuple[Path, Path]:
    """The model in both forms: Hugging Face's folder, and a folder of NeMo 2's, or of an iteration of Bridge's."""
    hf, config, state = state_of(case, folder, stack=True, root="" if bridge else "module.")
    made = folder / "made"
    weights = made if bridge else made / "weights"
    weights.mkdir(parents=True)
    distributed_files.write_torch(state, weights, 2)
    fields = lightning(config, **IDS, **changes)
    if bridge:
        provider = "megatron.bridge.models.llama.llama_provider.LlamaModelProvider"
        (made / "run_config.yaml").write_text(yaml.safe_dump({"model": {**fields, "_target_": provider}, "peft": None}))
        return hf, made
    model = {"_target_": "nemo.collections.llm.gpt.model.llama.LlamaModel", "config": fields, "optim": None}
    (made / "context").mkdir()
    (made / "context/model.yaml").write_text(yaml.safe_dump(model))
    return hf, made


@pytest.mark.parametrize("bridge", [False, True], ids=["nemo2", "bridge"])
@pytest.mark.parametrize("form", SECOND)
def test_nemo_2_and_megatron_bridge(form: str, bridge: bool, tmp_path: Path) -> None:
    case, changes = SECOND[form]
    hf, nemo = (models.opened(path) for path in write_second(case, tmp_path, bridge=bridge, **changes))
    same = {"architecture": "", "rope": hf.config.rope, "norm_eps": 0}
    ours, theirs = ({**vars(c.config), **same} for c in (nemo, hf))
    assert ours == theirs
    assert (nemo.config.rope.theta, nemo.config.rope.kind) == (hf.config.rope.theta, hf.config.rope.kind)
    stated = nemo.config.rope.parameters or {}
    assert all((hf.config.rope.parameters or {})[key] == value for key, value in stated.items())
    assert nemo.generation == {"bos_token_id": 7, "eos_token_ids": [8, 9], "pad_token_id": None}
    same_weights(hf, nemo)


def test_a_tokenizer_in_the_context_goes_into_the_engine(tmp_path: Path) -> None:
    _, made = write_second(LLAMA, tmp_path)
    (made / "context/nemo_tokenizer").mkdir()
    (made / "context/nemo_tokenizer/tokenizer.json").write_text("{}")
    (made / "context/tokenizer.json").write_text("{}")
    assert [file.name for file in models.opened(made).tokenizer_files] == ["tokenizer.json"]


def error_of(path: Path) -> str:
    with pytest.raises(TrtcError) as error:
        open_checkpoint(path).graph(Limits(2, 8, 16), f32)
    return str(error.value).replace(str(path), "NEMO").removeprefix("error: ")


C = "context/model.yaml: "
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"hidden_size": None}, (
        f"{C}config.hidden_size is missing\n"
        "  = help: the class of the config has it, but the file has not; export to Hugging Face's form"
    )),
    ({"multi_latent_attention": True}, f"{C}config.multi_latent_attention is true, but must be false"),
    ({"softmax_scale": 0.5}, f"{C}config.softmax_scale is 0.5, but must be null"),
    ({"normalization": "rms"}, f'{C}config.normalization is "rms", but must be one of RMSNorm, LayerNorm'),
    ({"activation_func": function("torch.nn.functional.selu")}, (
        f'{C}config.activation_func is {{"_call_": false, "_target_": "torch.nn.functional.selu"}}, but must be '
        "one of silu, gelu, relu, squared_relu"
    )),
    ({"num_layers": 3}, (
        "tensor module.decoder.layers.self_attention.linear_qkv.layer_norm_weight is f32[2, 32], but the config asks "
        "for f32[3, 32]\n  = help: the tensors and the config are of different models"
    )),
]   # fmt: skip


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_wrong_configs_name_the_key(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert error_of(write_second(LLAMA, tmp_path, **changes)[1]) == message


def test_classes_of_other_models(tmp_path: Path) -> None:
    _, made = write_second(LLAMA, tmp_path)
    file = made / "context/model.yaml"
    file.write_text(file.read_text().replace("llama.LlamaModel", "gemma.GemmaModel"))
    assert error_of(made) == (
        f"{C}_target_ is GemmaModel, but must begin with one of GPT, Llama, Mistral, Mixtral, Qwen2, Qwen25, Qwen3, "
        "Nemotron, Starcoder2"
    )
    file.write_text("{}")
    assert error_of(made) == f"{C}config is missing"
    file.rename(made / "context/io.json")
    assert error_of(made) == (
        "NEMO holds context/io.json, but must hold context/model.yaml, which says the config\n"
        "  = help: save it with a newer NeMo 2, or export it to Hugging Face's form"
    )


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


anything = st.none() | st.booleans() | st.integers(-2, 100) | st.floats() | st.text(max_size=6) | (
    st.lists(st.integers(-2, 100), max_size=3) | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)
)
FIELDS = lightning({
    "rope_parameters": {"rope_theta": 1e4}, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
    "num_hidden_layers": 2, "tie_word_embeddings": True,
})   # fmt: skip


@settings(max_examples=cases(1000), deadline=None)
@given(st.dictionaries(st.sampled_from([*FIELDS, *LLAMA3]), anything, max_size=4))
def test_any_config_is_taken_or_refused(changes: dict[str, Any]) -> None:
    target = {"_target_": "nemo.collections.llm.gpt.model.llama.LlamaModel"}
    try:
        keys = translated({**target, "config": {**FIELDS, **changes}}, "context/model.yaml")
        config = nemo_config(keys, 96, ranks=1, stages=1, core=True)
    except TrtcError:
        return
    assert config.hidden_size > 0 and config.num_hidden_layers > 0


@settings(max_examples=cases(500), deadline=None)
@given(st.lists(st.tuples(*(st.integers(0, 4) for _ in range(4))), max_size=6))
def test_any_tiles_make_up_a_box_or_are_refused(boxes: list[tuple[int, int, int, int]]) -> None:
    tiles = tuple(Tile(str(n), (a, b), (h, w)) for n, (a, b, h, w) in enumerate(boxes))

    def made(part: Joint | Cut) -> Any:
        if isinstance(part, Joint):
            return np.concatenate([made(inner) for inner in part.parts], part.axis)
        start = [a + b for a, b in zip(part.tile.start, part.start, strict=True)]
        return whole[tuple(slice(a, a + n) for a, n in zip(start, part.sizes, strict=True))]

    whole = np.arange(64).reshape(8, 8)
    try:
        parts = plan(Tiles((8, 8), tiles).near((1, 1), (3, 4)), (1, 1), (3, 4))
    except ValueError:
        return
    np.testing.assert_array_equal(made(parts), whole[1:3, 1:4])
