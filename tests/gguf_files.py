"""GGUF files of tiny models, by llama.cpp's own package: its names, its metadata, its blocks."""

from __future__ import annotations

import json
import math
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import models
import numpy as np
import numpy.typing as npt
from models import Case

gguf: Any = import_module("gguf")
torch: Any = import_module("torch")
save: Any = import_module("safetensors.torch").save_file
load: Any = import_module("safetensors.torch").load_file
Array = npt.NDArray[Any]
KINDS: Any = gguf.GGMLQuantizationType
FLOATS: dict[str, Any] = {"Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "Q2_K": [80, 82], "IQ4_XS": [0]}
"""Where the 16-bit floats of a block are, of kinds that the package reads and does not write."""
TURNED = ("LLAMA", "GRANITE")   # LlamaModel.permute of convert_hf_to_gguf.py


def blocks(kind: str, weight: Array) -> tuple[Array, Array]:
    """The blocks of a weight, and what they mean; random ones where the package does not quantise."""
    to = KINDS[kind]
    if kind not in FLOATS:
        made = gguf.quants.quantize(weight, to)
    else:
        size, width = gguf.GGML_QUANT_SIZES[to]
        random = np.random.default_rng(weight.size)
        made = random.integers(0, 256, (*weight.shape[:-1], weight.shape[-1] // size, width), dtype=np.uint8)
        for place in FLOATS[kind]:
            made[..., place : place + 2] = np.frombuffer(np.float16(6e-5).tobytes(), np.uint8)
        made = made.reshape(*weight.shape[:-1], -1)
    return made, gguf.quants.dequantize(made, to).reshape(weight.shape)


def permute(rows: Array, heads: int) -> Array:
    return rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def write(
    case: Case, arch: str, kinds: tuple[str, ...], folder: Path, parts: int = 1, model: bytes = b"", alone: bool = False
) -> tuple[Path, Path]:
    """The model in a GGUF file, its matrices in turn of these kinds, and in a folder of transformers.

    Args:
        model: of sentencepiece, whose vocabulary is the model's.
        alone: each expert has tensors of its own, as in files of 2023.
    """
    plain = models.write(case, folder / "plain")
    config: dict[str, Any] = json.loads((plain / "config.json").read_text())
    tensors = {key: tensor.float().numpy() for key, tensor in load(plain / "model.safetensors").items()}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[arch], config["num_hidden_layers"])
    experts = _stack_experts(tensors)
    meant: dict[str, Array] = {}
    writers = [_writer(arch, config, part, parts, len(tensors), folder) for part in range(parts)]
    _tokens(writers[0], config["vocab_size"], model)
    matrices = 0
    for n, (key, tensor) in enumerate(tensors.items()):
        meant[key] = tensor
        kind, made = "F32", tensor
        if tensor.ndim > 1:
            kind, matrices = kinds[matrices % len(kinds)], matrices + 1
            made, meant[key] = blocks(kind, tensor)
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(key.split(".")[-2], "")
        if arch in TURNED and heads:
            made = permute(made, config[heads])
        if arch.startswith("GEMMA") and "norm" in key:
            made = made + 1
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        named = {name: made}
        if alone and "_exps" in name:
            named = {name.replace("_exps", f".{e}"): one for e, one in enumerate(made)}
        for name, array in named.items():
            writers[n * parts // len(tensors)].add_tensor(name, np.ascontiguousarray(array), raw_dtype=KINDS[kind])
    if config["rope_parameters"]["rope_type"] == "longrope":
        for part in ("long", "short"):
            factors = np.array(config["rope_parameters"][f"{part}_factor"], np.float32)
            writers[0].add_tensor(f"rope_factors_{part}.weight", factors)
    if config["rope_parameters"]["rope_type"] == "llama3":
        writers[0].add_tensor("rope_freqs.weight", _factors(config))
    for writer in writers:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    for key, parts_of in experts.items():
        meant |= dict(zip(parts_of, meant.pop(key), strict=True))
    kept = {key: torch.from_numpy(np.ascontiguousarray(array)) for key, array in meant.items()}
    save(kept, plain / "model.safetensors")
    return writers[0].path_of_file, plain


def _stack_experts(tensors: dict[str, Array]) -> dict[str, list[str]]:
    """Put one tensor in the place of those of all experts; gives the keys of these by its own."""
    found: dict[str, list[str]] = {}
    for key in sorted(tensors, key=lambda key: [int(n) if n.isdigit() else 0 for n in key.split(".")]):
        merged = re.sub(r"\.experts\.\d+\.", ".experts.", key)
        if merged != key:
            found.setdefault(merged, []).append(key)
    for merged, keys in found.items():
        tensors[merged] = np.stack([tensors.pop(key) for key in keys])
    return found


def _factors(config: dict[str, Any]) -> Array:
    """LlamaModel.generate_extra_tensors of convert_hf_to_gguf.py."""
    rope, dim = config["rope_parameters"], config["head_dim"]
    found: list[float] = []
    for freq in 1.0 / (rope["rope_theta"] ** (np.arange(0, dim, 2, dtype=np.float32) / dim)):
        wavelen, old = 2 * math.pi / freq, rope["original_max_position_embeddings"]
        low, high = old / rope["low_freq_factor"], old / rope["high_freq_factor"]
        if wavelen < high:
            found.append(1)
        elif wavelen > low:
            found.append(rope["factor"])
        else:
            smooth = (old / wavelen - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
            found.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(found, np.float32)


def _writer(arch: str, config: dict[str, Any], part: int, parts: int, tensors: int, folder: Path) -> Any:
    name = f"tiny-{part + 1:05}-of-{parts:05}.gguf" if parts > 1 else "tiny.gguf"
    writer = gguf.GGUFWriter(folder / name, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH[arch]])
    writer.path_of_file = folder / name
    if parts > 1:
        writer.add_uint16("split.no", part)
        writer.add_uint16("split.count", parts)
        writer.add_int32("split.tensors.count", tensors)
    if part == 0:
        _metadata(writer, config)
    return writer


def _metadata(writer: Any, config: dict[str, Any]) -> None:
    rope = config["rope_parameters"]
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    every: list[tuple[str, Any]] = [
        ("context_length", config["max_position_embeddings"]), ("embedding_length", config["hidden_size"]),
        ("block_count", config["num_hidden_layers"]), ("feed_forward_length", config["intermediate_size"]),
        ("head_count", config["num_attention_heads"]), ("head_count_kv", config["num_key_value_heads"]),
        ("rope_freq_base", rope["rope_theta"]), ("key_length", head),
        ("rope_dimension_count", int(head * rope.get("partial_rotary_factor", 1.0))), ("value_length", head),
        ("vocab_size", config["vocab_size"]),
        ("layer_norm_rms_eps", config.get("rms_norm_eps")), ("layer_norm_eps", config.get("norm_epsilon")),
        ("attn_logit_softcapping", config.get("attn_logit_softcapping")),
        ("final_logit_softcapping", config.get("final_logit_softcapping")),
        ("sliding_window", config.get("sliding_window")), ("embedding_scale", config.get("embedding_multiplier")),
        ("residual_scale", config.get("residual_multiplier")), ("attention_scale", config.get("attention_multiplier")),
        ("logit_scale", config.get("logits_scaling")), ("file_type", 0), ("bos_token_id", 1), ("eos_token_id", 2),
        ("expert_count", config.get("num_local_experts") or config.get("num_experts")),
        ("expert_used_count", config.get("num_experts_per_tok")),
        ("expert_feed_forward_length", config.get("moe_intermediate_size")),
    ]   # fmt: skip
    for name, value in every:
        if value is not None:
            getattr(writer, f"add_{name}")(value)
    if rope["rope_type"] in ("yarn", "linear"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "longrope":
        scale = config["max_position_embeddings"] / config["original_max_position_embeddings"]
        factor = math.sqrt(1 + math.log(scale) / math.log(config["original_max_position_embeddings"]))
        writer.add_rope_scaling_attn_factors(factor)
        writer.add_rope_scaling_orig_ctx_len(config["original_max_position_embeddings"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def _tokens(writer: Any, count: int, model: bytes) -> None:
    """The vocabulary; words of no meaning where there is none."""
    writer.add_tokenizer_model("llama")
    words: Any = import_module("sentencepiece").SentencePieceProcessor(model_proto=model) if model else None
    writer.add_token_list([words.id_to_piece(n) if words else f"word {n}" for n in range(count)])
    writer.add_token_scores([words.get_score(n) if words else 0.0 for n in range(count)])
    if words:
        kinds = [6 if words.is_byte(n) else 2 if words.is_unknown(n) else 3 if words.is_control(n) else 1
                 for n in range(count)]   # fmt: skip
        writer.add_token_types(kinds)
