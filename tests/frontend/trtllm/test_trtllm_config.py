"""config.json of checkpoints: three generations, engines' own, messages, mutations."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import models
import pytest
from fuzz import cases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import trtc
from trtc.errors import TrtcError
from trtc.frontend import Limits, open_checkpoint
from trtc.frontend.config import Keys
from trtc.frontend.trtllm.quantization import Quantization, read_quantization
from trtc.frontend.trtllm.schema import schema
from trtc.ir.types import f32

for module in Path(models.__file__).parent.glob("*cases*.py"):
    import_module(module.stem)   # adds its cases to those that are known
jsonschema: Any = import_module("jsonschema")
Change = Callable[[dict[str, Any]], Any]
FIELDS = {
    "mapping.world_size": 2, "mapping.tp_size": 2, "mapping.pp_size": 1, "quantization.use_smooth_quant": False,
    "quantization.per_channel": False, "quantization.per_token": False, "quantization.per_group": False,
    "quantization.group_size": 64, "quantization.int8_kv_cache": False, "quantization.enable_fp8": False,
    "quantization.fp8_kv_cache": False, "quantization.use_weight_only": False,
    "quantization.weight_only_precision": "int8", "quantization.quant_algo": None,
    "quantization.kv_cache_quant_algo": None, "architecture": "LlamaForCausalLM", "dtype": "bfloat16",
    "logits_dtype": "float32", "vocab_size": 1009, "max_position_embeddings": 64, "hidden_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu",
    "intermediate_size": 48, "norm_epsilon": 1e-05, "position_embedding_type": "rope_gpt_neox",
    "use_prompt_tuning": False, "head_size": 16, "rotary_base": 10000.0, "rotary_scaling": None,
    "rotary_embedding_dim": 16, "attn_bias": False, "mlp_bias": False, "use_parallel_embedding": False,
    "embedding_sharding_dim": 0, "share_embedding_table": False,
}   # fmt: skip
"""Every field of the format's table, and more, for the model `gqa-tied-head16` on two ranks."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    trtc.convert(models.checkpoint("gqa-tied-head16"), tmp_path / "ranks", tp_size=2)
    return tmp_path / "ranks"


def edit(folder: Path, change: Change) -> Path:
    """The checkpoint with a change in its config.json."""
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def error_of(folder: Path, change: Change = lambda _: None) -> str:
    with pytest.raises(TrtcError) as error:
        open_checkpoint(edit(folder, change)).graph(Limits(1, 4, 8), f32)
    return str(error.value).removeprefix("error: ").replace(str(folder), "FOLDER")


def test_every_field_of_the_format_is_written(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    found = {key: config[key.partition(".")[0]][key.partition(".")[2]] if "." in key else config[key] for key in FIELDS}
    assert found == FIELDS
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.Draft202012Validator(schema()).validate(config)


def put(path: str, value: Any) -> Change:
    *sections, key = path.split(".")

    def change(config: dict[str, Any]) -> None:
        for section in sections:
            config = config[section]
        config[key] = value

    return change


def drop(*keys: str) -> Change:
    def change(config: dict[str, Any]) -> None:
        for key in keys:
            del config[key]

    return change


def rename(old: str, new: str) -> Change:
    def change(config: dict[str, Any]) -> None:
        config[new] = config.pop(old)

    return change



@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("vocab_size"), "vocab_size is missing"),
        (rename("num_hidden_layers", "num_hidden_layer"), (
            "num_hidden_layers is missing\n  = help: did you mean `num_hidden_layer`?"
        )),
        (rename("num_key_value_heads", "num_key_value_head"), (
            "num_key_value_head is unknown\n  = help: did you mean `num_key_value_heads`?"
        )),
        (put("dtype", "float61"), 'dtype is "float61", but must be one of float32, float16, bfloat16'),
        (put("hidden_size", 0), "hidden_size is 0, but must be at least 1"),
        (put("hidden_size", "32"), 'hidden_size is "32", but must be a whole number'),
        (put("mapping.tp_size", None), "mapping.tp_size is null, but must be a whole number"),
        (put("mapping", [2]), "mapping is [2], but must be an object"),
        (put("mapping.world_size", 3), (
            "mapping.world_size is 3, but must be tp_size * pp_size * cp_size, 2 * 1 * 1"
        )),
        (put("mapping.moe_ep_size", 4), "mapping.moe_tp_size * moe_ep_size is 1 * 4, but must be tp_size, 2"),
        (put("mapping.moe_cluster_size", 2), "mapping.moe_cluster_size is 2, but must be 1"),
        (put("num_key_value_heads", 3), "num_key_value_heads is 3, but must be a divisor of num_attention_heads, 4"),
        (put("trtc.version", 2), "trtc.version is 2, but must be at most 1\n  = help: upgrade trtc"),
        (put("trtc.decoder.normm", "rms"), "trtc.decoder.normm is unknown\n  = help: did you mean `norm`?"),
        (put("trtc.decoder.norm", "rmz"), (
            'trtc.decoder.norm is "rmz", but must be one of rms, layer\n  = help: did you mean `rms`?'
        )),
        (put("trtc.decoder.windows", [3]), "trtc.decoder.windows is [3], but must be a list of 2 numbers >= 0"),
        (put("trtc.decoder.windows", 3), "trtc.decoder.windows is 3, but must be a list"),
        (put("trtc.decoder.windows", [1, "2"]), 'trtc.decoder.windows[1] is "2", but must be a whole number'),
        (put("trtc.decoder.rope", None), "trtc.decoder.rope is null, but must be an object"),
        (put("trtc.decoder.rope.dim", 32), "trtc.decoder.rope.dim is 32, but must be at most head_size, 16"),
        (put("trtc.decoder.rope.rope_parameters.rope_type", "linear"), (
            "trtc.decoder.rope.rope_parameters.factor is missing"
        )),
        (put("architecture", "LlamaForCausaLM"), ""),
    ],
)   # fmt: skip
def test_errors_name_the_key(folder: Path, change: Change, message: str) -> None:
    if message:
        assert error_of(folder, change) == f"config.json: {message}"
    else:   # what trtc wrote says all of the decoder itself
        assert models.opened(edit(folder, change)).config.architecture == "LlamaForCausaLM"


def test_an_activation_that_is_unknown(folder: Path) -> None:
    message = error_of(folder, put("hidden_act", "sillu"))
    assert message.startswith('config.json: hidden_act is "sillu", but must be one of ')
    assert message.endswith("\n  = help: did you mean `silu`?")


def test_files_and_config_are_of_one_checkpoint(folder: Path) -> None:
    (folder / "rank2.safetensors").write_bytes(b"")
    assert error_of(folder) == (
        "rank2.safetensors lies in FOLDER, but config.json maps ranks 0 to 1\n"
        "  = help: the files are of different checkpoints"
    )
    (folder / "rank2.safetensors").unlink()
    (folder / "rank1.safetensors").unlink()
    assert error_of(folder) == (
        "rank1.safetensors is missing from FOLDER, but config.json maps 2 ranks\n  = help: fetch it again"
    )


def test_a_world_that_no_disk_holds(folder: Path) -> None:
    ranks = 1 << 47
    assert error_of(folder, put("mapping", {"world_size": ranks, "tp_size": ranks})) == (
        f"rank2.safetensors is missing from FOLDER, but config.json maps {ranks} ranks\n  = help: fetch it again"
    )


def test_a_tensor_of_another_shape(folder: Path) -> None:
    assert error_of(folder, put("vocab_size", 1011)) == (
        "tensor rank0/transformer.vocab_embedding.weight is bf16[1009, 32], but the config asks for bf16[1011, 32]\n"
        "  = it is transformer.vocab_embedding.weight\n"
        "  = help: the tensors and the config are of different models"
    )


PLAIN = (
    "mha", "gqa-tied-head16", "mqa-bias-head20", "biases-gelu-head10", "linear-gelu-tanh-sharded",
    "llama3-head64-old", "yarn", "mistral-window5", "mistral-no-window-head16", "qwen2", "qwen3", "olmo2", "granite",
    "gemma-mqa", "gemma-bias-head10", "starcoder2-window4", "stablelm-head64", "cohere-qk-norm-bias", "gpt2",
    "bigcode-mqa", "opt", "opt-projected-after", "bloom", "mpt", "falcon-7b", "falcon-40b-untied",
    "falcon-11b-one-norm-bias", "gptj", "neox-head16", "phi", "nemotron-gqa",
)   # fmt: skip
"""Models of which the format's own fields say all that there is to say."""


@pytest.mark.parametrize("name", PLAIN)
def test_what_others_wrote_is_read_by_the_families_rules(name: str, tmp_path: Path) -> None:
    """There is no section of ours then; lm_head is one of its own, as it is always there."""
    trtc.convert(models.checkpoint(name), tmp_path / "ranks")
    expected = replace(models.opened(tmp_path / "ranks").config, tie_word_embeddings=False)
    found = models.opened(edit(tmp_path / "ranks", drop("trtc"))).config
    turns = replace(expected.rope, parameters=found.rope.parameters)
    assert found == replace(expected, rope=turns, attention_multiplier=found.attention_multiplier)
    assert found.attention_multiplier == pytest.approx(expected.attention_multiplier)


def test_an_lm_head_that_is_left_out_is_the_embedding(tmp_path: Path) -> None:
    source = models.checkpoint("gqa-tied-head16")
    trtc.convert(source, tmp_path / "ranks")
    file = tmp_path / "ranks/rank0.safetensors"
    tensors = {k: v for k, v in models.torch_tensors(file).items() if k != "lm_head.weight"}
    save: Any = import_module("safetensors.torch").save_file
    save(tensors, file)
    edit(tmp_path / "ranks", drop("trtc"))
    assert models.opened(tmp_path / "ranks").config.tie_word_embeddings


def test_the_embedding_under_its_first_name(tmp_path: Path) -> None:
    trtc.convert(models.checkpoint("mha"), tmp_path / "ranks")
    file = tmp_path / "ranks/rank0.safetensors"
    old = "transformer.embedding.vocab_embedding.weight"
    tensors = {old if "vocab_embedding" in k else k: v for k, v in models.torch_tensors(file).items()}
    save: Any = import_module("safetensors.torch").save_file
    save(tensors, file)
    trtc.convert(tmp_path / "ranks", tmp_path / "again")
    assert "transformer.vocab_embedding.weight" in models.torch_tensors(tmp_path / "again/rank0.safetensors")


def test_engines_of_tensorrt_llm(folder: Path, tmp_path: Path) -> None:
    """Their config.json is of an engine; where the checkpoint's files lie beside it, they serve."""
    config = json.loads((folder / "config.json").read_text())
    expected = models.opened(folder).config
    document = {"version": "0.21.0", "pretrained_config": config, "build_config": {"max_batch_size": 8}}
    (folder / "config.json").write_text(json.dumps(document))
    assert models.opened(folder).config == expected
    for engine in (document, {"builder_config": {"name": "llama", "precision": "float16"}, "plugin_config": {}}):
        (tmp_path / "config.json").write_text(json.dumps(engine))
        assert error_of(tmp_path) == (
            "FOLDER holds an engine of TensorRT-LLM, but must hold a checkpoint\n  = help: give the checkpoint that "
            "it was built from, or convert the model again: trtc convert MODEL_DIR -o DIR"
        )


GENERATIONS: list[tuple[dict[str, Any], Quantization]] = [
    ({}, Quantization(group_size=64)),
    ({"use_weight_only": False, "weight_only_precision": "int8"}, Quantization(group_size=64)),
    ({"use_weight_only": True}, Quantization("W8A16", group_size=64)),
    ({"use_weight_only": True, "weight_only_precision": "int4"}, Quantization("W4A16", group_size=64)),
    ({"use_weight_only": True, "weight_only_precision": "int4", "per_group": True, "group_size": 128},
     Quantization("W4A16_GPTQ", group_size=128)),
    ({"use_weight_only": True, "weight_only_precision": "int4_awq", "per_group": True},
     Quantization("W4A16_AWQ", group_size=64)),
    ({"use_smooth_quant": True, "per_channel": True, "per_token": True},
     Quantization("W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN", group_size=64)),
    ({"use_smooth_quant": True, "per_channel": True},
     Quantization("W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN", group_size=64)),
    ({"use_smooth_quant": True, "per_token": True},
     Quantization("W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN", group_size=64)),
    ({"use_smooth_quant": True}, Quantization("W8A8_SQ_PER_TENSOR_PLUGIN", group_size=64)),
    ({"enable_fp8": True, "fp8_kv_cache": True}, Quantization("FP8", "FP8", group_size=64)),
    ({"int8_kv_cache": True}, Quantization(None, "INT8", group_size=64)),
    ({"quant_aglo": "W4A16_AWQ", "kv_cache_quant_aglo": "INT8"}, Quantization("W4A16_AWQ", "INT8")),
    ({"quant_aglo": None, "kv_cache_quant_aglo": None}, Quantization()),
    ({"quant_algo": None, "kv_cache_quant_algo": None}, Quantization()),
    ({"quant_algo": "NO_QUANT"}, Quantization()),
    ({"quant_algo": "W4A16_GPTQ", "group_size": 64, "has_zero_point": True, "exclude_modules": ["lm_head"]},
     Quantization("W4A16_GPTQ", None, 64, True, False, ("lm_head",))),
    ({"quant_algo": "W4A16_AWQ", "pre_quant_scale": True, "kv_cache_quant_algo": "FP8"},
     Quantization("W4A16_AWQ", "FP8", pre_quant_scale=True)),
]   # fmt: skip


@pytest.mark.parametrize(("section", "expected"), GENERATIONS)
def test_three_generations_of_quantization(section: dict[str, Any], expected: Quantization) -> None:
    """As TensorRT-LLM 0.21 named what 0.6's flags asked for; the group size of old and new where none is said."""
    assert read_quantization(Keys(section, "config.json", "quantization.")) == expected


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"quant_algo": "W4A16_AWK"}, "quant_algo is \"W4A16_AWK\", but must be one of W8A16, W4A16, "),
        ({"use_weight_only": True, "enable_fp8": True}, " asks for W8A16 and FP8, but must ask for one"),
        ({"int8_kv_cache": True, "fp8_kv_cache": True}, " asks for INT8 and FP8, but must ask for one"),
    ],
)   # fmt: skip
def test_quantization_that_cannot_be(section: dict[str, Any], message: str) -> None:
    with pytest.raises(TrtcError) as error:
        read_quantization(Keys(section, "config.json", "quantization."))
    where = "config.json: quantization" + ("." if message[0] == "q" else "")
    assert str(error.value).startswith(f"error: {where}{message}")


SCALARS = st.none() | st.booleans() | st.integers(-3, 70) | st.sampled_from([2**70, 1e400, float("nan"), -0.5, 1e-30])
VALUES = st.recursive(
    SCALARS | st.sampled_from(["", "rms", "default", "yarn", "float16", "LlamaForCausalLM"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["tp_size", "factor"]), inner),
    max_leaves=4,
)


def keys_of(config: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for key, value in config.items():
        found.append((*path, key))
        if isinstance(value, dict):
            found += keys_of(value, (*path, key))   # pyright: ignore[reportUnknownArgumentType]
    return found


@pytest.fixture(scope="module", params=["yarn-mscale-sharded", "gemma2", "opt", "mixtral", "deepseek-v3-groups-yarn"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("fuzz") / "ranks"
    trtc.convert(models.checkpoint(request.param), folder, pp_size=2)
    return folder, json.loads((folder / "config.json").read_text())


@settings(max_examples=cases(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_is_refused_or_harmless(written: tuple[Path, dict[str, Any]], data: st.DataObject) -> None:
    folder, config = written
    config = copy.deepcopy(config)
    for _ in range(data.draw(st.integers(1, 3))):
        *sections, key = data.draw(st.sampled_from(keys_of(config)))
        inner = config
        for section in sections:
            inner = inner[section]
        if data.draw(st.booleans()):
            inner[key] = data.draw(VALUES)
        else:
            del inner[key]
    (folder / "config.json").write_text(json.dumps(config))
    try:
        open_checkpoint(folder).graph(Limits(1, 4, 8), f32)
    except TrtcError as error:
        assert str(error).startswith("error: ")
