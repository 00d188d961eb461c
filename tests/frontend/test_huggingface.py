"""Hugging Face directories: what is missing or wrong is said, with its name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commandline import WHAT_TO_GIVE

from trtc.errors import TrtcError
from trtc.frontend import Limits, open_checkpoint
from trtc.ir.types import f32

save: Any = import_module("safetensors.numpy").save_file
load: Any = import_module("safetensors.numpy").load_file
torch: Any = import_module("torch")
ABSENT: Any = object()
LAYER = "model.layers.0"


def error_of(folder: Path) -> str:
    """What opening a checkpoint and making its graph says; folder names are the same everywhere."""
    with pytest.raises(TrtcError) as error:
        open_checkpoint(folder).graph(Limits(2, 8, 16), f32)
    return str(error.value).replace(str(folder), "MODEL").removeprefix("error: ")


def edit(folder: Path, **changes: Any) -> None:
    config = {**json.loads((folder / "config.json").read_text()), **changes}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not ABSENT}))


def retensor(folder: Path, **changes: Any) -> None:
    tensors = {**load(folder / "model.safetensors"), **{k.replace("__", "."): v for k, v in changes.items()}}
    save({k: v for k, v in tensors.items() if v is not ABSENT}, folder / "model.safetensors")


CONFIG_ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"hidden_size": ABSENT}, "config.json: hidden_size is missing"),
    ({"hidden_size": ABSENT, "hiden_size": 8}, (
        "config.json: hidden_size is missing\n  = help: did you mean `hiden_size`?"
    )),
    ({"hidden_size": None}, "config.json: hidden_size is missing"),
    ({"hidden_size": "8"}, 'config.json: hidden_size is "8", but must be a whole number'),
    ({"hidden_size": 8.5}, "config.json: hidden_size is 8.5, but must be a whole number"),
    ({"hidden_size": True}, "config.json: hidden_size is true, but must be a whole number"),
    ({"hidden_size": [8] * 30}, (
        "config.json: hidden_size is [8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8,..., "
        "but must be a whole number"
    )),
    ({"hidden_size": 0}, "config.json: hidden_size is 0, but must be at least 1"),
    ({"num_hidden_layers": -1}, "config.json: num_hidden_layers is -1, but must be at least 1"),
    ({"vocab_size": 0}, "config.json: vocab_size is 0, but must be at least 1"),
    ({"intermediate_size": 0}, "config.json: intermediate_size is 0, but must be at least 1"),
    ({"head_dim": 0}, "config.json: head_dim is 0, but must be at least 1"),
    ({"max_position_embeddings": 0}, "config.json: max_position_embeddings is 0, but must be at least 1"),
    ({"rms_norm_eps": 0}, "config.json: rms_norm_eps is 0, but must be greater than 0"),
    ({"rms_norm_eps": 10**400}, (
        f"config.json: rms_norm_eps is 1{'0' * 59}..., "
        "but must be a number"
    )),
    ({"attention_bias": "no"}, 'config.json: attention_bias is "no", but must be true or false'),
    ({"num_key_value_heads": 3, "num_attention_heads": 8}, (
        "config.json: num_key_value_heads is 3, but must be a divisor of num_attention_heads, 8"
    )),
    ({"num_attention_heads": 3, "num_key_value_heads": 3}, (
        "config.json: num_attention_heads is 3, but must be a divisor of hidden_size, 8, where there is no head_dim"
    )),
    ({"head_dim": 5}, (
        "config.json: head_dim is 5, but must be even and in 2..8192, as default rotary positions ask\n"
        "  = help: head_dim is hidden_size / num_attention_heads where it is not stated"
    )),
    ({"hidden_act": "tanh"}, (
        'config.json: hidden_act is "tanh", but must be one of '
        "silu, swish, gelu, gelu_pytorch_tanh, gelu_new, gelu_fast, quick_gelu, relu, relu2"
    )),
    ({"hidden_act": "gelu_pytorch"}, (
        'config.json: hidden_act is "gelu_pytorch", but must be one of '
        "silu, swish, gelu, gelu_pytorch_tanh, gelu_new, gelu_fast, quick_gelu, relu, relu2\n"
        "  = help: did you mean `gelu_pytorch_tanh`?"
    )),
    ({"rope_scaling": 4}, "config.json: rope_scaling is 4, but must be an object"),
    ({"rope_scaling": {"type": "linear"}}, "config.json: rope_scaling.factor is missing"),
    ({"rope_scaling": {"type": "su"}}, (
        'config.json: rope_scaling.type is "su", but must be one of default, linear, dynamic, llama3, yarn, longrope'
    )),
    ({"architectures": ABSENT}, (
        'config.json: architectures is missing\n  = help: add "architectures": ["LlamaForCausalLM"]'
    )),
    ({"architectures": ["LLamaForCausalLM"]}, (
        "config.json: architecture LLamaForCausalLM is unknown\n  = help: did you mean `LlamaForCausalLM`?"
    )),
    ({"architectures": ["Bert"]}, (
        "config.json: architecture Bert is unknown\n  = help: `trtc models` lists what is known"
    )),
    ({"quantization_config": {"quant_method": "fp9"}}, (
        'config.json: quantization_config.quant_method is "fp9", but must be one of awq, gptq, fp8, '
        "compressed-tensors, modelopt, modelopt_fp4\n  = help: did you mean `fp8`?"
    )),
]   # fmt: skip


@pytest.mark.parametrize(("changes", "message"), CONFIG_ERRORS)
def test_a_wrong_config_names_the_key(folder: Path, changes: dict[str, Any], message: str) -> None:
    edit(folder, **changes)
    assert error_of(folder) == message


def test_no_directory(folder: Path) -> None:
    assert error_of(folder / "x") == f"MODEL/x is no directory\n{WHAT_TO_GIVE}".replace("MODEL/x", "MODEL")
    assert error_of(folder / "config.json") == f"MODEL is no directory\n{WHAT_TO_GIVE}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "config.json is missing from MODEL"),
        (b"", "config.json is no JSON: Expecting value: line 1 column 1 (char 0)"),
        (b'{"a": 1,}', (
            "config.json is no JSON: Illegal trailing comma before end of object: line 1 column 8 (char 7)",
            "config.json is no JSON: Expecting property name enclosed in double quotes: line 1 column 9 (char 8)",
        )),
        (b"[]", "config.json must hold a JSON object"),
        (b"\xff\xfe\x00", (
            "config.json is no JSON: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
        )),
        (b"[" * 100_000, "config.json is nested too deeply to be read"),
    ],
)   # fmt: skip
def test_a_config_that_cannot_be_read(folder: Path, content: bytes | None, message: str | tuple[str, ...]) -> None:
    if content is None:
        (folder / "config.json").unlink()
    else:
        (folder / "config.json").write_bytes(content)
    assert error_of(folder) in (message, *message)   # Python 3.13 words one of them otherwise


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads every file")
def test_a_config_without_permission(folder: Path) -> None:
    (folder / "config.json").chmod(0)
    assert error_of(folder) == "MODEL/config.json cannot be read: Permission denied"


def test_a_folder_in_the_place_of_a_file(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    assert error_of(folder) == "MODEL/config.json cannot be read: Is a directory"


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert error_of(folder) == (
        "MODEL holds no *.safetensors and no pytorch_model*.bin\n  = help: fetch the weights, too"
    )


def test_a_missing_tensor_names_the_file_and_the_nearest(folder: Path) -> None:
    retensor(folder, model__norm__weight=ABSENT, model__norm__weigth=np.ones(8, np.float32))
    assert error_of(folder) == (
        "tensor model.norm.weight is missing from model.safetensors\n  = help: did you mean `model.norm.weigth`?"
    )


def test_a_wrong_shape_shows_both_and_the_role(folder: Path) -> None:
    edit(folder, intermediate_size=16)
    assert error_of(folder) == (
        f"tensor {LAYER}.mlp.gate_proj.weight is f32[12, 8], but the config asks for f32[16, 8]\n"
        "  = it is transformer.layers.0.mlp.fc.weight\n"
        "  = help: the tensors and the config are of different models"
    )


def test_tensors_that_are_no_plain_floats(folder: Path) -> None:
    retensor(folder, model__norm__weight=np.ones(8, np.int8))
    assert error_of(folder) == (
        "tensor model.norm.weight is i8[8], but must be one of f32, f16, bf16\n  = it is transformer.ln_f.weight"
    )
    retensor(folder, model__norm__weight=np.ones(8, np.float64))
    assert error_of(folder) == (
        "model.safetensors: tensor model.norm.weight is F64, "
        "but must be one of F32, F16, BF16, F8_E4M3, I8, U8, I32, I64, BOOL"
    )


Homes = Callable[[dict[str, str]], dict[str, Any]]


def shard(folder: Path, weight_map: Homes) -> None:
    """Two files and an index in the place of one file."""
    tensors = load(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    save({n: tensors[n] for n in names[:5]}, folder / "a.safetensors")
    save({n: tensors[n] for n in names[5:]}, folder / "b.safetensors")
    homes = {n: "a.safetensors" if n in names[:5] else "b.safetensors" for n in names}
    index = {"metadata": {}, "weight_map": weight_map(homes)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_shards(folder: Path) -> None:
    whole = {key: array.copy() for key, array in open_checkpoint(folder).source.items()}
    shard(folder, lambda homes: homes)
    source = open_checkpoint(folder).source
    assert source.files == ["a.safetensors", "b.safetensors"] and source.keys() == whole.keys()
    assert all(np.array_equal(source[key], whole[key]) for key in whole)
    (folder / "model.safetensors.index.json").unlink()
    assert open_checkpoint(folder).source.keys() == whole.keys()


INDICES: list[tuple[Homes, str | None]] = [
    (lambda homes: {**homes, "x": "c.safetensors"}, (
        "c.safetensors is missing from MODEL, but model.safetensors.index.json names it\n  = help: fetch it again"
    )),
    (lambda homes: {**homes, "x": "../c.safetensors"}, (
        'model.safetensors.index.json: the file of tensor x is "../c.safetensors", '
        "but must be a name in the same folder"
    )),
    (lambda homes: {**homes, "x": 3}, (
        "model.safetensors.index.json: the file of tensor x is 3, but must be a name in the same folder"
    )),
    (lambda _: {}, (
        "model.safetensors.index.json: weight_map is missing, but must say which file holds each tensor"
    )),
    (lambda homes: {**homes, "model.norm.weight": "a.safetensors"}, None),
]   # fmt: skip


@pytest.mark.parametrize(("weight_map", "message"), INDICES)
def test_wrong_indices(folder: Path, weight_map: Homes, message: str | None) -> None:
    shard(folder, weight_map)
    if message is None:
        open_checkpoint(folder).graph(Limits(2, 8, 16), f32)   # the file's own header is what counts
    else:
        assert error_of(folder) == message


def test_a_tensor_missing_from_its_shard_names_the_shard(folder: Path) -> None:
    retensor(folder, lm_head__weight=ABSENT)
    shard(folder, lambda homes: {**homes, "lm_head.weight": "b.safetensors"})
    assert error_of(folder) == "tensor lm_head.weight is missing from b.safetensors, where the index has it"


def test_a_tensor_missing_from_all_shards(folder: Path) -> None:
    retensor(folder, lm_head__weight=ABSENT)
    shard(folder, lambda homes: homes)
    assert error_of(folder) == "tensor lm_head.weight is missing from the 2 files of MODEL"


def as_torch(folder: Path, *parts: slice) -> dict[str, Any]:
    """Files of torch.save in the place of model.safetensors: one, or several with an index. Gives the tensors."""
    tensors = {key: array.copy() for key, array in load(folder / "model.safetensors").items()}
    (folder / "model.safetensors").unlink()
    homes: dict[str, str] = {}
    for n, part in enumerate(parts):
        name = f"pytorch_model-{n + 1:05}-of-{len(parts):05}.bin" if len(parts) > 1 else "pytorch_model.bin"
        homes |= dict.fromkeys(sorted(tensors)[part], name)
        torch.save({key: torch.tensor(tensors[key]) for key in sorted(tensors)[part]}, folder / name)
    if len(parts) > 1:
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": homes}))
    return tensors


@pytest.mark.parametrize("parts", [(slice(None),), (slice(5), slice(5, None))])
def test_files_of_torch(folder: Path, parts: tuple[slice, ...]) -> None:
    graph = str(open_checkpoint(folder).graph(Limits(2, 8, 16), f32))
    tensors = as_torch(folder, *parts)
    checkpoint = open_checkpoint(folder)
    assert len(checkpoint.source.files) == len(parts) and checkpoint.source.keys() == tensors.keys()
    assert all(np.array_equal(checkpoint.source[key], tensors[key]) for key in tensors)
    assert checkpoint.dtype == "float32" and str(checkpoint.graph(Limits(2, 8, 16), f32)) == graph
    edit(folder, dtype=ABSENT)
    assert open_checkpoint(folder).dtype == "float32"
    (folder / "pytorch_model.bin.index.json").unlink(missing_ok=True)
    assert open_checkpoint(folder).source.keys() == tensors.keys()


def test_safetensors_come_before_files_of_torch(folder: Path) -> None:
    kept = (folder / "model.safetensors").read_bytes()
    as_torch(folder, slice(None))
    (folder / "adapter.safetensors").write_bytes(kept)
    assert open_checkpoint(folder).source.files == ["pytorch_model.bin"]   # what is named so comes before a stray one
    (folder / "model.safetensors").write_bytes(kept)
    assert open_checkpoint(folder).source.files == ["model.safetensors"]


def test_a_shard_of_torch_that_is_missing(folder: Path) -> None:
    as_torch(folder, slice(5), slice(5, None))
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    assert error_of(folder) == (
        "pytorch_model-00002-of-00002.bin is missing from MODEL, but pytorch_model.bin.index.json names it\n"
        "  = help: fetch it again"
    )


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (None, {"bos_token_id": 1, "eos_token_ids": [2], "pad_token_id": None}),
        ({"eos_token_id": [2, 5]}, {"bos_token_id": 1, "eos_token_ids": [2, 5], "pad_token_id": None}),
        ({"eos_token_id": None, "pad_token_id": -1}, {"bos_token_id": 1, "eos_token_ids": [], "pad_token_id": None}),
        ({"pad_token_id": 0, "bos_token_id": None}, {"bos_token_id": None, "eos_token_ids": [2], "pad_token_id": 0}),
    ],
)
def test_tokens_that_begin_and_end(folder: Path, own: dict[str, Any] | None, expected: dict[str, Any]) -> None:
    if own is not None:
        (folder / "generation_config.json").write_text(json.dumps(own))
    assert open_checkpoint(folder).generation == expected


def test_tokens_of_a_wrong_type(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"eos_token_id": ["</s>"]}')
    with pytest.raises(TrtcError) as error:
        _ = open_checkpoint(folder).generation
    want = "must be a whole number or a list of them"
    assert str(error.value) == f'error: generation_config.json: eos_token_id is ["</s>"], but {want}'
