"""Parameters as MaxText names them, of LLaMA, Mistral and Gemma 1: all layers in one array, or each by itself.

Source: MaxText's llama_or_mistral_ckpt.py and convert_gemma_chkpt.py. An array of all layers has them along axis 1. The
factor of the scores is in the kernel of the queries; norms of Gemma have their 1 added, and its embedding the factor of
embedded tokens. Where rotary positions are scaled as LLaMA 3.1's, pairs are neighbours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import Any

from trtc.errors import TrtcError
from trtc.frontend.config import DecoderConfig
from trtc.frontend.meta import in_halves
from trtc.frontend.sources.mapped import MappedSource
from trtc.frontend.sources.stores import StoreSource
from trtc.frontend.weights import Expression, Fetch
from trtc.ir.op import Value
from trtc.ir.ops import Cast, Mul, Reshape, Slice, Sub, Transpose, scalar
from trtc.ir.types import f32

WORDS = "token_embedder/embedding"
LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.weight")
PARTS = {
    "self_attn.q_proj": "self_attention/query/kernel", "self_attn.k_proj": "self_attention/key/kernel",
    "self_attn.v_proj": "self_attention/value/kernel", "self_attn.o_proj": "self_attention/out/kernel",
    "mlp.gate_proj": "mlp/wi_0/kernel", "mlp.up_proj": "mlp/wi_1/kernel", "mlp.down_proj": "mlp/wo/kernel",
}   # fmt: skip
NORMS = {
    "input_layernorm": ("pre_self_attention_layer_norm/scale", "pre_self_attention_norm/scale"),
    "post_attention_layernorm": ("post_self_attention_layer_norm/scale", "pre_ffw_norm/scale"),
}
"""Of LLaMA and Mistral, and of Gemma."""
FAMILIES = ("LlamaForCausalLM", "MistralForCausalLM", "GemmaForCausalLM")
STACKED = "decoder/layers/"


def is_maxtext(known: Collection[str]) -> bool:
    """Whether these are the names of a model of MaxText."""
    return WORDS in known and any(key.startswith("decoder/") for key in known)


def maxtext_tensors(source: MappedSource, root: str, config: DecoderConfig) -> Expression:
    """The tensors of transformers' torch models.

    Errors:
        TrtcError: the model is of another family, whose names differ.
    """
    if config.architecture not in FAMILIES:
        known = f"help: read are {', '.join(FAMILIES)}; others by MaxText's own to_huggingface.py"
        raise TrtcError(f"{source.folder} holds a {config.architecture} of MaxText, whose names are not known", known)
    if isinstance(source, StoreSource):
        for key in [key for key in source if key.startswith(f"{root}{STACKED}")]:
            if len(source.entries[key].shape) > 1:
                source.split(key, 1)
    return _Tensors(source, root, config)


class _Tensors:
    def __init__(self, source: MappedSource, root: str, config: DecoderConfig) -> None:
        self.source, self.root, self.config = source, root, config
        self.gemma = config.architecture == "GemmaForCausalLM"

    def __call__(self, key: str, shape: tuple[int, ...], fetch: Fetch) -> Value:
        if key == "model.embed_tokens.weight":
            return self._embedding(shape, fetch)
        if key == "lm_head.weight":
            return Transpose(fetch(f"{self.root}decoder/logits_dense/kernel", *reversed(shape)), (1, 0))
        if key == "model.norm.weight":
            return self._norm(fetch(f"{self.root}decoder/decoder_norm/scale", *shape))
        layer = LAYER.fullmatch(key)
        if not layer:
            return fetch(f"{self.root}{key}", *shape)
        number, part = int(layer[1]), layer[2]
        if part in NORMS:
            return self._norm(self._layer(number, NORMS[part][self.gemma], shape, fetch))
        return self._projection(number, part, shape, fetch)

    def _embedding(self, shape: tuple[int, ...], fetch: Fetch) -> Value:
        """Less what pads the vocabulary, and the factor of embedded tokens."""
        key = f"{self.root}{WORDS}"
        rows: Any = self.source.type(key).shape[:1]
        value = fetch(key, *(rows if rows and rows[0] > shape[0] else shape[:1]), shape[1])
        if value.shape != shape:
            value = Slice(value, 0, 0, shape[0])
        return Mul(_as_f32(value), scalar(1 / math.sqrt(shape[1]), f32)) if self.gemma else value

    def _norm(self, value: Value) -> Value:
        return Sub(_as_f32(value), scalar(1.0, f32)) if self.gemma else value

    def _layer(self, number: int, name: str, shape: tuple[int, ...], fetch: Fetch) -> Value:
        """A layer's own array, or its part of that of all."""
        own, stacked = f"{self.root}decoder/layers_{number}/{name}", f"{self.root}{STACKED}{name}"
        if own in self.source or stacked not in self.source:
            return fetch(own, *shape)
        layers = self.source.type(stacked).shape[1:2]
        if layers != (self.config.num_hidden_layers,):
            want = f"but the config asks for {self.config.num_hidden_layers} layers, along axis 1"
            raise TrtcError(f"array {stacked} is {self.source.type(stacked)}, {want}")
        if f"{stacked}/{number}" in self.source:
            return fetch(f"{stacked}/{number}", *shape)
        whole = fetch(stacked, shape[0], *layers, *shape[1:])
        return Reshape(Slice(whole, 1, number, 1), shape)

    def _projection(self, number: int, part: str, shape: tuple[int, ...], fetch: Fetch) -> Value:
        config, (rows, columns) = self.config, shape
        name, size = PARTS[part], config.head_dim
        if part.startswith("mlp."):
            return Transpose(self._layer(number, name, (columns, rows), fetch), (1, 0))
        if part == "self_attn.o_proj":
            out = self._layer(number, name, (columns // size, size, rows), fetch)
            return Transpose(Reshape(out, (columns, rows)), (1, 0))
        heads = rows // size
        stored = self._layer(number, name, (columns, heads, size), fetch)
        made: Value = Transpose(Reshape(stored, (columns, rows)), (1, 0))
        if part == "self_attn.v_proj":
            return made
        if config.rope.kind == "llama3":
            made = in_halves(made, heads, rows, columns)
        return Mul(_as_f32(made), scalar(math.sqrt(size), f32)) if part == "self_attn.q_proj" else made


def _as_f32(value: Value) -> Value:
    return value if value.dtype == f32 else Cast(value, f32)
