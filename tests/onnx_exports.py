"""Tiny random decoders with past, exported to ONNX by torch, and transformers' logits of them."""

from __future__ import annotations

import copy
import json
import warnings
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import models
import numpy as np
from models import Case, Floats

torch: Any = import_module("torch")
transformers: Any = import_module("transformers")

SMALL = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
WORDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
LLAMA = {**SMALL, **WORDS, "intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 64}
GPT2 = {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, **WORDS}
OPT = {**SMALL, **WORDS, "ffn_dim": 48, "max_position_embeddings": 64, "word_embed_proj_dim": 32}
EXPORTS = {
    case.name: case
    for case in (
        Case("llama-sdpa", {**LLAMA, "attention_bias": True}, model="Llama"),
        Case("llama-eager-positions-of-the-past", LLAMA, lengths=(3, 9), model="Llama"),
        Case("gpt2-eager", GPT2, model="GPT2LMHead"),
        Case("opt-sdpa-positions-of-the-mask", OPT, lengths=(3, 9), model="OPT"),
    )
}
"""By name: the attention that is exported, and whether positions are given or computed by the model."""


@cache
def exported(name: str, folder: Path) -> Path:
    """The folder of one case: model.onnx and config.json, written once."""
    case = EXPORTS[name]
    model, path = _model(name), folder / name
    path.mkdir()
    (path / "config.json").write_text(json.dumps({**model.config.to_dict(), "architectures": [type(model).__name__]}))
    export(model, path / "model.onnx", positions="positions" not in case.name)
    return path


@cache
def _model(name: str) -> Any:
    case = EXPORTS[name]
    kind = case.model.removesuffix("LMHead")
    config = getattr(transformers, f"{kind}Config")(**copy.deepcopy(case.config))
    config._attn_implementation = "sdpa" if "sdpa" in name else "eager"
    classes = {"GPT2LMHead": "GPT2LMHeadModel"}
    model = getattr(transformers, classes.get(case.model, f"{case.model}ForCausalLM"))(config)
    generator = torch.Generator().manual_seed(0)
    for tensor in model.parameters():
        noise = torch.randn(tensor.shape, generator=generator)
        tensor.data = 1 + noise / 4 if tensor.ndim == 1 else noise * (1.5 / tensor.shape[1] ** 0.5)
    return model.eval()


def export(model: Any, file: Path, *, positions: bool, opset: int = 17) -> None:
    """Write a decoder with past, as optimum does: dynamic batch, sequence and past."""
    config = model.config
    layers, heads = config.num_hidden_layers, getattr(config, "num_key_value_heads", config.num_attention_heads)
    size = config.hidden_size // config.num_attention_heads
    pasts = [f"past_key_values.{n}.{kind}" for n in range(layers) for kind in ("key", "value")]
    names = [n.replace("past_key_values", "present") for n in pasts]
    inputs = ["input_ids", "attention_mask", *(["position_ids"] if positions else []), *pasts]
    given = [torch.ones(2, 3, dtype=torch.long), torch.ones(2, 7, dtype=torch.long)]
    given += [torch.arange(4, 7)[None].repeat(2, 1)] if positions else []
    given += [torch.randn(2, heads, 4, size) for _ in pasts]
    dynamic = {name: {0: "batch", 1: "sequence"} for name in ("input_ids", "attention_mask", "position_ids", "logits")}
    dynamic |= {name: {0: "batch", 2: "past"} for name in [*pasts, *names]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Decoder(model, positions).eval(), tuple(given), str(file),
            input_names=inputs, output_names=["logits", *names],
            dynamic_axes={n: axes for n, axes in dynamic.items() if n in [*inputs, *names, "logits"]},
            opset_version=opset, dynamo=False,
        )   # fmt: skip


class _Decoder(torch.nn.Module):   # type: ignore[misc]
    """A model whose cache goes in and out as tensors."""

    def __init__(self, model: Any, positions: bool) -> None:
        super().__init__()   # pyright: ignore[reportUnknownMemberType]
        self.model, self.positions = model, positions

    def forward(self, input_ids: Any, attention_mask: Any, *rest: Any) -> Any:
        pasts = rest[1:] if self.positions else rest
        cache = transformers.DynamicCache()
        for n, (key, value) in enumerate(zip(pasts[::2], pasts[1::2], strict=True)):
            cache.update(key, value, n)
        more = {"position_ids": rest[0]} if self.positions else {}
        out = self.model(input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, **more)
        tensors = [t for layer in out.past_key_values.layers for t in (layer.keys, layer.values)]
        return (out.logits, *tensors)


def reference(name: str) -> Floats:
    """transformers' logits [sequence, call, word] of each sequence by itself."""
    case, model, found = EXPORTS[name], _model(name), list[Floats]()
    for ids, prompt in zip(models.tokens(case), case.lengths, strict=True):
        past, rows = None, list[Floats]()
        with torch.no_grad():
            for part in (ids[:prompt], *ids[prompt:].reshape(-1, 1)):
                out = model(torch.tensor(part[None].astype(np.int64)), past_key_values=past, use_cache=True)
                past = out.past_key_values
                rows.append(out.logits[0, -1].numpy())
        found.append(np.stack(rows))
    return np.stack(found)
