"""Configs: a checkpoint's keys, checked, and what the generic decoder is told."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, TypeVar, cast

from trtc.errors import TrtcError
from trtc.ir.errors import nearest

T = TypeVar("T", int, float, bool, str)
LONGEST = 60   # characters of a wrong value that a message shows
_MISSING: Any = object()
_KINDS: dict[type, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}


class Keys:
    """The keys of a JSON object, read with their types; every error names the file and the key."""

    def __init__(self, values: Mapping[str, Any], file: str, prefix: str = "") -> None:
        self.values, self.file, self.prefix = values, file, prefix

    def over(self, **defaults: Any) -> Keys:
        """The same keys, with these values for those that are not there at all."""
        return Keys({**defaults, **self.values}, self.file, self.prefix)

    def get(self, kind: type[T], key: str, *others: str, default: T | None = _MISSING) -> T:
        """The value under the first of these keys that is there and not null."""
        for name in (key, *others):
            if (value := self.values.get(name)) is not None:
                return self._checked(kind, name, value)
        if default is _MISSING:
            near = get_close_matches(key, self.values.keys() - {key}, 1, cutoff=0.8)   # many true keys are like others
            notes = [f"help: did you mean `{near[0]}`?"] if near else []
            raise TrtcError(f"{self.file}: {self.prefix}{key} is missing", *notes)
        return cast("T", default)

    def first(self, *names: str) -> str:
        """The first of these keys that is there and not null; else the first."""
        return next((name for name in names if self.values.get(name) is not None), names[0])

    def positive(self, key: str, *, default: int = _MISSING) -> int:
        """A whole number >= 1."""
        number = self.get(int, key, default=default)
        if number < 1:
            raise self.wrong(key, number, "at least 1")
        return number

    def above(self, least: float, key: str, *, default: float = _MISSING) -> float:
        """A number that exceeds another."""
        number = self.get(float, key, default=default)
        if number <= least:
            raise self.wrong(key, self.values.get(key, number), f"greater than {least:g}")
        return number

    def choice(self, key: str, known: Mapping[str, Any] | tuple[str, ...], default: str = _MISSING) -> str:
        """One of some words."""
        word = self.get(str, key, default=default)
        if word not in known:
            raise self.wrong(key, word, f"one of {', '.join(known)}", *nearest(word, known))
        return word

    def words(self, key: str, known: tuple[str, ...], count: int) -> list[str] | None:
        """A list of so many words; None where there is none."""
        value: Any = self.values.get(key)
        if value is None:
            return None
        words = cast("list[Any]", value) if isinstance(value, list) else []
        if len(words) != count or any(word not in known for word in words):
            raise self.wrong(key, cast("object", value), f"a list of {count}, each one of {', '.join(known)}")
        return words

    def numbers(self, key: str, count: int) -> tuple[float, ...]:
        """A list of so many numbers above 0."""
        value: Any = self.values.get(key)
        numbers = cast("list[Any]", value) if isinstance(value, list) else []
        if len(numbers) != count or not all(type(n) in (int, float) and 0 < n < 1 << 63 for n in numbers):
            raise self.wrong(key, cast("object", value), f"a list of {count} numbers above 0")
        return tuple(map(float, numbers))

    def integers(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers, >= 0; empty where there is none."""
        value: Any = self.values.get(key)
        numbers = cast("list[Any]", value) if isinstance(value, list) else []
        if (value is not None and not isinstance(value, list)) or any(type(n) is not int or n < 0 for n in numbers):
            raise self.wrong(key, cast("object", value), "a list of whole numbers")
        return tuple(numbers)

    def section(self, *names: str) -> Keys | None:
        """The object under the first of these keys that is there, not null and not empty."""
        for name in names:
            if (inner := self.values.get(name)) not in (None, {}):
                if not isinstance(inner, Mapping):
                    raise self.wrong(name, inner, "an object")
                return Keys(cast("Mapping[str, Any]", inner), self.file, f"{self.prefix}{name}.")
        return None

    def unknown(self, key: str, *notes: str) -> TrtcError:
        return TrtcError(f"{self.file}: {self.prefix}{key} is unknown", *notes)

    def wrong(self, key: str, value: object, want: str, *notes: str) -> TrtcError:
        shown = json.dumps(value, ensure_ascii=False, default=str)
        shown = shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}..."
        return TrtcError(f"{self.file}: {self.prefix}{key} is {shown}, but must be {want}", *notes)

    def _checked(self, kind: type[T], key: str, value: Any) -> T:
        if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63:
            value = float(value)
        if kind is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        finite = not isinstance(value, float) or math.isfinite(value)
        finite = finite and (not isinstance(value, int) or abs(value) < 1 << 63)
        if not isinstance(value, kind) or not finite or (kind is not bool and isinstance(value, bool)):
            raise self.wrong(key, value, _KINDS[kind])
        return value


@dataclass(frozen=True)
class RopeConfig:
    """Rotary positions: the base, how much of a head is turned, and the scaling for contexts beyond training.

    Args:
        dim: elements of a head that turn; 0 for no rotary positions.
        kind: default, linear, dynamic, llama3, yarn or longrope, as Hugging Face's ``rope_type``.
        parameters: what the kind needs, under Hugging Face's names.
        interleaved: pairs are neighbours (GPT-J order) instead of halves (GPT-NeoX order).
    """

    theta: float
    dim: int
    kind: str = "default"
    parameters: Mapping[str, Any] | None = None
    interleaved: bool = False


@dataclass(frozen=True)
class MoEConfig:
    """Layers whose feed-forward block is a mixture of experts, and how tokens are routed to them.

    Args:
        layers: their numbers.
        num_experts, num_experts_per_tok: how many there are, and how many a token goes to.
        intermediate_size: of each expert.
        scoring: softmax or sigmoid, of the router's products: an expert's score.
        correction_bias: a number an expert is added to its score where experts are chosen, not where they are weighted.
        norm_topk_prob: the weights of a token's experts, which are their scores, are divided by their sum.
        routed_scaling_factor: the weights are multiplied by it at last.
        n_group, topk_group: experts lie in groups, and a token goes to experts of the best groups only.
        group_best: a group is as good as the sum of so many of its best scores.
        shared_intermediate_size: of an expert that every token goes to; 0 for none.
        shared_gate: what that expert gives is multiplied by a sigmoid of a product with the token.
    """

    layers: tuple[int, ...]
    num_experts: int
    num_experts_per_tok: int
    intermediate_size: int
    scoring: Literal["softmax", "sigmoid"] = "softmax"
    correction_bias: bool = False
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    n_group: int = 1
    topk_group: int = 1
    group_best: int = 1
    shared_intermediate_size: int = 0
    shared_gate: bool = False


@dataclass(frozen=True)
class MLAConfig:
    """Multi-head latent attention: keys and values are products of one narrow vector a token.

    Args:
        kv_lora_rank: the size of that vector.
        q_lora_rank: the size of the one that queries are products of; 0 where they are products of the token itself.
        qk_nope_head_dim, qk_rope_head_dim: elements of a head of q and k that do not turn, and those that do.
        v_head_dim: elements of a head of v.
    """

    kv_lora_rank: int
    q_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int


@dataclass(frozen=True)
class DecoderConfig:
    """What the generic decoder is told; names as Hugging Face spells them.

    Args:
        qkv_bias, dense_bias, mlp_bias: whether q, k and v, what follows attention, and the feed-forward block add one.
        gated: whether the feed-forward block multiplies its activation by a second projection.
        norm: rms or layer.
        norm_bias: whether every norm adds a bias; layer norms only.
        norm_offset: added to the weight of every norm, in f32.
        norm_place: pre, post or both: norms stand before attention and the feed-forward block, after them, or both;
            sum: after what they add is added.
        parallel_residual: attention and the feed-forward block read one norm, and both are added to what it read.
        qk_norm: none, head, each or whole: q and k are normalised by head with one weight, or with one for each head
            (layer norms only), or each over all its heads.
        windows: for each layer how many keys a token sees at most, itself included, 0 for all; or () for all layers.
        attention_multiplier: of the scores; 1/sqrt(head_dim) where None.
        attention_softcap, logits_softcap: bounds of scores and logits, by cap * tanh(x / cap); 0 for none.
        embedding_multiplier, residual_multiplier, logits_multiplier: of the embedded tokens, of what a block adds, and
            of the logits.
        round_embedding_multiplier: whether the first is rounded to the element type, as a tensor of it would be.
        learned_positions: whether a row of a table is added to each embedded token, by its position.
        embedding_dim: of the embedding and of what lm_head reads, where projections lead to hidden_size; 0 for none.
        embedding_norm: whether embedded tokens are normalised.
        alibi_slopes: for each head, how much scores rise from each key to the next; () for none.
        qkv_clip: bound of the size of q, k and v; 0 for none.
        divide_scores_by_layer: whether scores are divided by the layer's number, from 1.
        norm_weights: whether norms have weights at all.
        final_norm: whether there is a norm before lm_head.
        parallel_norms: with parallel_residual, 1 or 2: the blocks read one norm, or each its own.
        residual_of_norm: whether blocks add to the normalised input, which they read, instead of to the input.
        head_bias: whether lm_head adds a bias.
        normal_head: whether each row of lm_head is divided by its length; the family's name map does it.
        local_rope: of the layers that have a window, where their rotary positions differ.
        moe: the layers that have experts.
        mla: attention over latent vectors, in every layer; ``head_dim`` is then that of q and k.
    """

    architecture: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    norm_eps: float
    rope: RopeConfig
    hidden_act: str
    tie_word_embeddings: bool
    qkv_bias: bool = False
    dense_bias: bool = False
    mlp_bias: bool = False
    gated: bool = True
    norm: Literal["rms", "layer"] = "rms"
    norm_bias: bool = False
    norm_offset: float = 0.0
    norm_place: Literal["pre", "post", "both", "sum"] = "pre"
    parallel_residual: bool = False
    qk_norm: Literal["none", "head", "each", "whole"] = "none"
    windows: tuple[int, ...] = ()
    attention_multiplier: float | None = None
    attention_softcap: float = 0.0
    logits_softcap: float = 0.0
    embedding_multiplier: float = 1.0
    round_embedding_multiplier: bool = False
    residual_multiplier: float = 1.0
    logits_multiplier: float = 1.0
    learned_positions: bool = False
    embedding_dim: int = 0
    embedding_norm: bool = False
    alibi_slopes: tuple[float, ...] = ()
    qkv_clip: float = 0.0
    divide_scores_by_layer: bool = False
    norm_weights: bool = True
    final_norm: bool = True
    parallel_norms: int = 1
    residual_of_norm: bool = False
    head_bias: bool = False
    normal_head: bool = False
    local_rope: RopeConfig | None = None
    moe: MoEConfig | None = None
    mla: MLAConfig | None = None

    @property
    def value_head_dim(self) -> int:
        """Elements of a head of v, which ``head_dim`` is but for latent attention."""
        return self.mla.v_head_dim if self.mla else self.head_dim
