"""Models that transformers lacks, written with the keys and names of their own publication from ones that it has."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

torch: Any = import_module("torch")
safetensors: Any = import_module("safetensors.torch")
Tensors = dict[str, Any]
THEIRS = "transformers"   # the folder of transformers' form beside it


def republish(folder: Path, architecture: str) -> None:
    """Move transformers' checkpoint to a folder of its own, and write in its place what was published."""
    (folder / THEIRS).mkdir()
    for file in [f for f in folder.iterdir() if f.is_file()]:
        file.rename(folder / THEIRS / file.name)
    config = json.loads((folder / THEIRS / "config.json").read_text())
    tensors = safetensors.load_file(folder / THEIRS / "model.safetensors")
    new_config, new_tensors = FORMS[architecture](config, tensors)
    stated = {"architectures": [architecture], "torch_dtype": config["dtype"], "eos_token_id": config["eos_token_id"]}
    (folder / "config.json").write_text(json.dumps(stated | new_config))
    safetensors.save_file({k: v.contiguous() for k, v in new_tensors.items()}, folder / "model.safetensors")


def _renamed(tensors: Tensors, names: dict[str, str]) -> Tensors:
    """The tensors whose name has one of these parts, with another in its place."""
    found: Tensors = {}
    for key, tensor in tensors.items():
        for old, new in names.items():
            if old in key:
                found[key.replace(old, new)] = tensor
    return found


def _qkv(tensors: Tensors, layer: str, kind: str) -> list[Any]:
    keys = [f"{layer}.self_attn.{part}_proj.{kind}" for part in "qkv"]
    return [tensors[key] for key in keys if key in tensors]


def chatglm(config: dict[str, Any], tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
    """THUDM's form of GLM-4: all rows of q, then of k, then of v in one tensor; gate, then up, in another."""
    layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
    new = _renamed(tensors, {
        "model.embed_tokens.": "transformer.embedding.word_embeddings.",
        "model.norm.": "transformer.encoder.final_layernorm.", "lm_head.": "transformer.output_layer.",
    })   # fmt: skip
    for n in range(layers):
        ours, theirs = f"model.layers.{n}", f"transformer.encoder.layers.{n}"
        new |= _renamed(tensors, {
            f"{ours}.input_layernorm.": f"{theirs}.input_layernorm.",
            f"{ours}.post_attention_layernorm.": f"{theirs}.post_attention_layernorm.",
            f"{ours}.self_attn.o_proj.": f"{theirs}.self_attention.dense.",
            f"{ours}.mlp.gate_up_proj.": f"{theirs}.mlp.dense_h_to_4h.",
            f"{ours}.mlp.down_proj.": f"{theirs}.mlp.dense_4h_to_h.",
        })   # fmt: skip
        for kind in ("weight", "bias"):
            if parts := _qkv(tensors, ours, kind):
                new[f"{theirs}.self_attention.query_key_value.{kind}"] = torch.cat(parts)
    return {
        "model_type": "chatglm", "hidden_size": config["hidden_size"], "ffn_hidden_size": config["intermediate_size"],
        "num_layers": layers, "num_attention_heads": heads, "multi_query_attention": True,
        "multi_query_group_num": config["num_key_value_heads"], "kv_channels": config["head_dim"],
        "padded_vocab_size": config["vocab_size"], "seq_length": config["max_position_embeddings"],
        "layernorm_epsilon": config["rms_norm_eps"], "rmsnorm": True, "post_layer_norm": True, "original_rope": True,
        "rope_ratio": config["rope_parameters"]["rope_theta"] / 10000, "add_qkv_bias": config["attention_bias"],
        "add_bias_linear": False, "apply_residual_connection_post_layernorm": False,
        "tie_word_embeddings": config["tie_word_embeddings"],
    }, new   # fmt: skip


def internlm2(config: dict[str, Any], tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
    """InternLM's form of LLaMA: for each key head the rows of its queries, its own, and its values' in one tensor."""
    groups, size = config["num_key_value_heads"], config["head_dim"]
    new = _renamed(tensors, {"model.embed_tokens.": "model.tok_embeddings.", "model.norm.": "model.norm.",
                             "lm_head.": "output."})   # fmt: skip
    for n in range(config["num_hidden_layers"]):
        layer = f"model.layers.{n}"
        new |= _renamed(tensors, {
            f"{layer}.input_layernorm.": f"{layer}.attention_norm.",
            f"{layer}.post_attention_layernorm.": f"{layer}.ffn_norm.",
            f"{layer}.self_attn.o_proj.": f"{layer}.attention.wo.",
            f"{layer}.mlp.gate_proj.": f"{layer}.feed_forward.w1.",
            f"{layer}.mlp.up_proj.": f"{layer}.feed_forward.w3.",
            f"{layer}.mlp.down_proj.": f"{layer}.feed_forward.w2.",
        })   # fmt: skip
        for kind in ("weight", "bias"):
            if parts := _qkv(tensors, layer, kind):
                rest = parts[0].shape[1:]
                grouped = [part.reshape(groups, -1, size, *rest) for part in parts]
                new[f"{layer}.attention.wqkv.{kind}"] = torch.cat(grouped, 1).reshape(-1, *rest)
    same = (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "vocab_size", "max_position_embeddings", "rms_norm_eps", "hidden_act", "tie_word_embeddings",
    )   # fmt: skip
    rope = config["rope_parameters"]
    scaling = None if rope["rope_type"] == "default" else {"type": rope["rope_type"], "factor": rope["factor"]}
    own = {"bias": config["attention_bias"], "rope_theta": rope["rope_theta"], "rope_scaling": scaling}
    return {key: config[key] for key in same} | own | {"model_type": "internlm2"}, new


FORMS: dict[str, Callable[[dict[str, Any], Tensors], tuple[dict[str, Any], Tensors]]] = {
    "ChatGLMModel": chatglm, "ChatGLMForConditionalGeneration": chatglm, "InternLM2ForCausalLM": internlm2,
}   # fmt: skip
