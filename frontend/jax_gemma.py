"""Parameters as Gemma's own library names them: Gemma 1, 2 and 3.

Source: gemma/modules.py and gemma/transformer.py of google-deepmind/gemma: einsums of q [N, D, H], of k and v
[2, K, D, H], of all three [3, N, D, H], of what follows attention [N, H, D], of gate and up [2, D, F], from Gemma 2 on
[2, F, D].
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from trtc.errors import TrtcError
from trtc.frontend.sources.mapped import MappedSource
from trtc.frontend.weights import Expression, Fetch
from trtc.ir.op import Value
from trtc.ir.ops import Reshape, Slice, Transpose

EMBEDDING = "transformer/embedder/input_embedding"
FIRST = "transformer/layer_0"
WHOLE = {"model.embed_tokens.weight": EMBEDDING, "model.norm.weight": "transformer/final_norm/scale"}
LAYER = re.compile(r"(?:language_model\.)?model\.layers\.(\d+)\.(.+)\.weight")
NORMS = {
    "input_layernorm": "pre_attention_norm", "pre_feedforward_layernorm": "pre_ffw_norm",
    "post_feedforward_layernorm": "post_ffw_norm", "self_attn.q_norm": "attn/_query_norm",
    "self_attn.k_norm": "attn/_key_norm",
}   # fmt: skip
SECOND = {26: 256, 42: 256, 46: 144}
"""What Gemma 2's scores are divided by, squared, by the number of layers: of 2B, 9B, 27B."""
THIRD = {18: (512, 256), 26: (512, 256), 34: (1024, 256), 48: (1024, 256), 62: (1024, 168)}
"""Gemma 3's window, and the same number: of 270M, 1B, 4B, 12B, 27B."""
WIDE = 1024   # the window of those of Gemma 3 that were trained on 131072 positions, 8 times as many as first


def is_gemma(known: Collection[str]) -> bool:
    """Whether these are the names of a Gemma."""
    return EMBEDDING in known


def gemma_raw(source: MappedSource, root: str) -> dict[str, Any]:
    """A config.json of what the shapes show, and of what all published models of that size have.

    Errors:
        TrtcError: there is no published model of so many layers.
    """
    third = f"{root}{FIRST}/attn/_query_norm/scale" in source
    second = not third and f"{root}{FIRST}/post_attention_norm/scale" in source
    layers = sum(1 for key in source if re.fullmatch(rf"{root}transformer/layer_\d+/pre_attention_norm/scale", key))
    words, hidden = _shape(source, root + EMBEDDING, 2)
    heads, size, _ = _shape(source, f"{root}{FIRST}/attn/attn_vec_einsum/w", 3)
    merged = f"{root}{FIRST}/attn/kv_einsum/w" not in source
    groups = heads if merged else _shape(source, f"{root}{FIRST}/attn/kv_einsum/w", 4)[1]
    known = SECOND if second else THIRD
    if (second or third) and layers not in known:
        have = f"there is no config.json beside {source.folder}"
        sizes = ", ".join(map(str, known))
        raise TrtcError(f"{have}, and its {layers} layers are not those of a published Gemma: {sizes}")
    raw: dict[str, Any] = {
        "architectures": ["GemmaForCausalLM"], "hidden_size": hidden, "num_hidden_layers": layers, "head_dim": size,
        "num_attention_heads": heads, "num_key_value_heads": groups, "vocab_size": words, "rms_norm_eps": 1e-6,
        "intermediate_size": _shape(source, _linear(source, root, 0), 2)[0], "max_position_embeddings": 8192,
        "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "bos_token_id": 2,
        "eos_token_id": 1, "pad_token_id": 0,
    }   # fmt: skip
    if second:
        raw |= {"architectures": ["Gemma2ForCausalLM"], "query_pre_attn_scalar": SECOND[layers], "sliding_window": 4096}
    if third:
        window, scalar = THIRD[layers]
        raw |= {"architectures": ["Gemma3ForCausalLM"], "query_pre_attn_scalar": scalar, "sliding_window": window}
        wide = {"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
        raw |= wide if window == WIDE else {"max_position_embeddings": 32768}
        raw["eos_token_id"] = [1, 106]   # the end of text, and of a turn
    return raw


def _shape(source: MappedSource, key: str, rank: int) -> tuple[int, ...]:
    stored = source.type(key)
    sizes = tuple(size for size in stored.shape if isinstance(size, int))
    if len(sizes) != rank:
        raise TrtcError(f"array {key} is {stored}, but must have {rank} axes")
    return sizes


def _linear(source: MappedSource, root: str, layer: int) -> str:
    return _named(source, f"{root}transformer/layer_{layer}/mlp/linear")


def _named(source: MappedSource, key: str) -> str:
    """An array by its name, or ``w`` below it."""
    return f"{key}/w" if f"{key}/w" in source else key


def gemma_tensors(source: MappedSource, root: str) -> Expression:
    """The tensors of transformers' torch models."""

    def tensor(key: str, shape: tuple[int, ...], fetch: Fetch) -> Value:
        name = key.removeprefix("language_model.")
        if not (layer := LAYER.fullmatch(key)):
            return fetch(f"{root}{WHOLE.get(name, name)}", *shape)
        block, part = f"{root}transformer/layer_{layer[1]}", layer[2]
        if part == "post_attention_layernorm":   # of Gemma 1: before the feed-forward block
            after = f"{block}/post_attention_norm/scale"
            return fetch(after if after in source else f"{block}/pre_ffw_norm/scale", *shape)
        if part in NORMS:
            return fetch(f"{block}/{NORMS[part]}/scale", *shape)
        if part == "mlp.down_proj":
            return Transpose(fetch(_linear(source, root, int(layer[1])), *reversed(shape)), (1, 0))
        if part.startswith("mlp."):
            return _gating(source, fetch, f"{block}/mlp/gating_einsum", int(part == "mlp.up_proj"), shape)
        return _attention(source, fetch, f"{block}/attn", part.removeprefix("self_attn."), shape)

    return tensor


def _gating(source: MappedSource, fetch: Fetch, key: str, index: int, shape: tuple[int, ...]) -> Value:
    name, (width, hidden) = _named(source, key), shape
    turned = source.type(name).shape == (2, width, hidden) and (width != hidden or _later(source, key))
    if turned:
        return Reshape(Slice(fetch(name, 2, width, hidden), 0, index, 1), shape)
    return Transpose(Reshape(Slice(fetch(name, 2, hidden, width), 0, index, 1), (hidden, width)), (1, 0))


def _later(source: MappedSource, key: str) -> bool:
    """Whether the layer is of Gemma 2 or 3, which a square matrix does not show."""
    return f"{key.removesuffix('mlp/gating_einsum')}post_attention_norm/scale" in source


def _attention(source: MappedSource, fetch: Fetch, block: str, part: str, shape: tuple[int, ...]) -> Value:
    """A projection whose heads are an axis of their own."""
    if part == "o_proj":
        key = f"{block}/attn_vec_einsum/w"
        heads, size, _ = _shape(source, key, 3)
        hidden, _ = shape
        return Transpose(Reshape(fetch(key, heads, size, hidden), (heads * size, hidden)), (1, 0))
    index = ("q_proj", "k_proj", "v_proj").index(part)
    merged, rows = f"{block}/qkv_einsum/w" in source, shape[1]
    key = f"{block}/{'qkv_einsum' if merged else 'kv_einsum' if index else 'q_einsum'}/w"
    stored = _shape(source, key, 4 if merged or index else 3)
    heads, size = stored[-3], stored[-1]
    count = 3 if merged else 2 if index else 1
    whole = fetch(key, *((count,) if count > 1 else ()), heads, rows, size)
    if count > 1:
        whole = Reshape(Slice(whole, 0, index if merged else index - 1, 1), (heads, rows, size))
    return Reshape(Transpose(whole, (0, 2, 1)), (heads * size, rows))
