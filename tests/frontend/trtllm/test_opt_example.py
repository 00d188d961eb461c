"""The example of the document that introduced the format: OPT-125m in float16 for two ranks."""

from __future__ import annotations

import json
import struct
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import models
import pytest

import trtc.cli

EXAMPLE: dict[str, Any] = {
    "architecture": "OPTForCausalLM", "dtype": "float16", "logits_dtype": "float32", "num_hidden_layers": 12,
    "num_attention_heads": 12, "hidden_size": 768, "vocab_size": 50272, "position_embedding_type": "learned_absolute",
    "max_position_embeddings": 2048, "hidden_act": "relu",
    "quantization": {"use_weight_only": False, "weight_only_precision": "int8"},
    "mapping": {"world_size": 2, "tp_size": 2}, "use_parallel_embedding": False, "embedding_sharding_dim": 0,
    "share_embedding_table": False, "do_layer_norm_before": True, "use_prompt_tuning": False,
}   # fmt: skip
REST = {"num_key_value_heads": 12, "intermediate_size": 3072, "norm_epsilon": 1e-5}   # of the document's table


def write_opt_125m(folder: Path) -> Path:
    """A checkpoint of that shape by transformers' own config and names; all weights are holes in the file."""
    folder.mkdir()
    with models.torch.device("meta"):
        model = models.transformers.OPTForCausalLM(models.transformers.OPTConfig())
    config: dict[str, Any] = {**model.config.to_dict(), "architectures": ["OPTForCausalLM"], "dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(config))
    header, end = dict[str, Any](), 0
    for name, tensor in model.named_parameters():   # tied ones once
        start, end = end, end + 2 * tensor.numel()
        header[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return folder


def test_opt_125m_comes_out_as_the_document_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the document's own options."""
    write_opt_125m(tmp_path / "opt-125m")
    monkeypatch.chdir(tmp_path)
    place = "opt/125M/trt_ckpt/fp16/2-gpu"
    options = f"--model_dir ./opt-125m --dtype float16 --world_size 2 --output_dir ./{place}/"
    monkeypatch.setattr(sys, "argv", ["trtc", "convert", *options.split()])
    with pytest.raises(SystemExit) as ended:
        trtc.cli.main()
    assert not ended.value.code
    out = tmp_path / place
    assert {"config.json", "rank0.safetensors", "rank1.safetensors"} <= {file.name for file in out.iterdir()}
    assert len(list(out.glob("rank*"))) == 2
    config = json.loads((out / "config.json").read_text())
    for section in ("quantization", "mapping"):
        assert config[section].items() >= EXAMPLE[section].items()
    assert {key: config[key] for key in (*EXAMPLE, *REST)} == {
        **EXAMPLE, **REST, "quantization": config["quantization"], "mapping": config["mapping"],
    }   # fmt: skip
    assert config.keys() - EXAMPLE.keys() - REST.keys() == {"trtc"}
    with import_module("safetensors").safe_open(out / "rank1.safetensors", "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}   # noqa: SIM118
    layer = "transformer.layers.11"
    assert len(shapes) == 12 * 12 + 5 and shapes.items() >= {
        "transformer.vocab_embedding.weight": [50272, 768], "transformer.position_embedding.weight": [2048, 768],
        f"{layer}.attention.qkv.weight": [1152, 768], f"{layer}.attention.qkv.bias": [1152],
        f"{layer}.attention.dense.weight": [768, 384], f"{layer}.attention.dense.bias": [768],
        f"{layer}.mlp.fc.weight": [1536, 768], f"{layer}.mlp.proj.weight": [768, 1536],
        f"{layer}.input_layernorm.bias": [768], f"{layer}.post_layernorm.weight": [768],
        "transformer.ln_f.bias": [768], "lm_head.weight": [25136, 768],
    }.items()   # fmt: skip
