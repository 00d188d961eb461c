"""Rank files of a small LLaMA, quantised layer by layer, as TensorRT-LLM and ModelOpt wrote them."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import models
import numpy as np
from models import Case
from rank_quantizers import PLAIN, Array, Scheme, Tensors

from trtc.frontend.weights import Weights
from trtc.ir.materialize import materialize
from trtc.ir.types import f32

torch: Any = import_module("torch")
save: Any = import_module("safetensors.torch").save_file

CASE = Case("quantised-ranks", {"hidden_size": 64, "intermediate_size": 320, "num_key_value_heads": 2})
AS_IT_IS = ("transformer.layers.1.attention.dense", "lm_head")   # as exclude_modules would have it
ROLES = {
    "self_attn.q_proj": "attention.q", "self_attn.k_proj": "attention.k", "self_attn.v_proj": "attention.v",
    "self_attn.o_proj": "attention.dense", "mlp.gate_proj": "mlp.fc", "mlp.up_proj": "mlp.gate",
    "mlp.down_proj": "mlp.proj", "input_layernorm": "input_layernorm",
    "post_attention_layernorm": "post_layernorm",
}   # fmt: skip
BY_COLUMNS = ("attention.dense", "mlp.proj")   # what ranks divide by their inputs


def document(section: dict[str, Any], tp: int) -> dict[str, Any]:
    """config.json as TensorRT-LLM wrote it."""
    return {
        "architecture": "LlamaForCausalLM", "dtype": "float32", "logits_dtype": "float32", "vocab_size": 97,
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 320, "hidden_act": "silu", "norm_epsilon": 1e-5, "max_position_embeddings": 64,
        "position_embedding_type": "rope_gpt_neox", "rotary_base": 10000.0, "quantization": section,
        "mapping": {"world_size": tp, "tp_size": tp, "pp_size": 1},
    }   # fmt: skip


def quantise(scheme: Scheme, plain: Path, folder: Path, tp: int) -> dict[str, Array]:
    """The rank files of a model, quantised, all but AS_IT_IS. Gives what its weights mean, by Hugging Face's key."""
    return quantise_each(lambda name: PLAIN if name in AS_IT_IS else scheme, scheme.section, plain, folder, tp)


def quantise_each(
    scheme_of: Callable[[str], Scheme], section: dict[str, Any], plain: Path, folder: Path, tp: int
) -> dict[str, Array]:
    """The same, where each layer has a scheme of its own; each rank's part is quantised by itself."""
    tensors = {k: t.numpy() for k, t in models.torch_tensors(plain).items()}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(document(section, tp)))
    parts: dict[str, list[Array]] = {key: [] for key in tensors}
    for rank in range(tp):
        save(one_rank(scheme_of, tensors, parts, rank, tp), folder / f"rank{rank}.safetensors")
    joined = {key: np.concatenate(each, axis_of(key)) if divided(key) else each[0] for key, each in parts.items()}
    return {key: joined[key][: len(tensor)] for key, tensor in tensors.items()}


def one_rank(
    scheme_of: Callable[[str], Scheme], tensors: Tensors, parts: dict[str, list[Array]], rank: int, tp: int
) -> Tensors:
    """The tensors of a rank; what its weights mean is added to ``parts``."""
    own: dict[str, Array] = {}
    for key, tensor in tensors.items():
        padded = np.pad(tensor, ((0, -97 % tp), (0, 0))) if key == "lm_head.weight" else tensor
        own[key] = np.split(padded, tp, axis_of(key))[rank] if divided(key) else padded
    found: Tensors = {}
    for n in range(2):
        keys = [f"model.layers.{n}.self_attn.{part}_proj.weight" for part in "qkv"]
        name = f"transformer.layers.{n}.attention.qkv"
        made, meant = scheme_of(name).make(name, np.concatenate([own.pop(key) for key in keys]))   # scales for all
        found |= {**made, f"transformer.layers.{n}.attention.kv_cache_scaling_factor": torch.tensor([1.5])}
        heads = 64 // tp
        for key, part in zip(keys, np.split(meant, [heads, heads + 32 // tp]), strict=True):
            parts[key].append(part)
    for key, w in own.items():
        name = name_of(key).removesuffix(".weight")
        made, meant = (scheme_of(name) if key.endswith("_proj.weight") else PLAIN).make(name, w)
        found |= made
        parts[key].append(meant)
    return found


def name_of(key: str) -> str:
    """The format's name of a tensor of Hugging Face's."""
    if key.startswith("model.layers."):
        _, _, layer, part = key.removesuffix(".weight").split(".", 3)
        return f"transformer.layers.{layer}.{ROLES[part]}.weight"
    outside = {"model.embed_tokens": "transformer.vocab_embedding", "model.norm": "transformer.ln_f"}
    stem = key.removesuffix(".weight")
    return f"{outside.get(stem, stem)}.weight"


def divided(key: str) -> bool:
    return key.endswith("_proj.weight") or key == "lm_head.weight"


def axis_of(key: str) -> int:
    return int(any(part in name_of(key) for part in BY_COLUMNS))


def weight(folder: Path, role: str, *shape: int) -> Array:
    checkpoint = models.opened(folder)
    return materialize(Weights(checkpoint.source, checkpoint.expression, f32)(role, *shape), checkpoint.source)
