"""tokenizer.json and tokenizer_config.json, made of vocabularies that lie in other files.

Source: the package tokenizers; bytes as characters are GPT-2's (Radford et al., 2019).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
SPACE = "\u2581"   # stands for a space in SentencePiece's tokens


@dataclass(frozen=True)
class Added:
    """A token that is found in a text before all others."""

    id: int
    content: str
    special: bool

    def entry(self) -> dict[str, Any]:
        """As tokenizer.json has it."""
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        return {"id": self.id, "content": self.content, **plain, "special": self.special}


@cache
def byte_characters() -> tuple[str, ...]:
    """The character that stands for each byte: itself where it can be seen, else one from 256 on."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in seen]
    return tuple(chr(byte if byte in seen else 256 + others.index(byte)) for byte in range(256))


def all_merges(vocabulary: Mapping[str, int], rank: Mapping[str, float]) -> list[list[str]]:
    """The pairs that make a token of two others, the least rank first, as a vocabulary alone implies them.

    Args:
        rank: of the tokens that are made by merging.
    """
    found: list[tuple[float, int, int, str, str]] = []
    for token, at in rank.items():
        for cut in range(1, len(token)):
            first, second = token[:cut], token[cut:]
            if first in rank and second in rank:
                found.append((at, vocabulary[first], vocabulary[second], first, second))
    return [[first, second] for *_, first, second in sorted(found)]


def byte_level(
    vocabulary: Mapping[str, int], merges: Sequence[Sequence[str]], splits: Iterable[str], *, whole: bool
) -> dict[str, Any]:
    """BPE over bytes, as GPT-2 has it.

    Args:
        splits: patterns by which a text is cut, one after the other, before merging.
        whole: a piece that is a token is not merged at all.
    """
    cuts = [{"type": "Split", "pattern": {"Regex": s}, "behavior": "Isolated", "invert": False} for s in splits]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "normalizer": None, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*cuts, level]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": _bpe(vocabulary, merges, ignore_merges=whole),
    }   # fmt: skip


def sentencepiece(
    vocabulary: Mapping[str, int], merges: Sequence[Sequence[str]], *, unknown: str | None, prefix: bool, fallback: bool
) -> dict[str, Any]:
    """BPE over characters, as SentencePiece has it.

    Args:
        unknown: the token of what has none.
        prefix: a space is put before a text, and taken off what is decoded.
        fallback: there are tokens of single bytes.
    """
    escape: dict[str, Any] = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    first: list[dict[str, Any]] = [{"type": "Prepend", "prepend": SPACE}] if prefix else []
    decoders: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}]
    decoders += [{"type": "ByteFallback"}] if fallback else []
    decoders += [{"type": "Fuse"}, *([{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else [])]
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*first, escape]}, "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _bpe(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=fallback),
    }   # fmt: skip


def _bpe(vocabulary: Mapping[str, int], merges: Sequence[Sequence[str]], **more: Any) -> dict[str, Any]:
    plain = {
        "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
        "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
    }   # fmt: skip
    return {"type": "BPE", **plain, **more, "vocab": dict(vocabulary), "merges": [list(pair) for pair in merges]}


def document(parts: dict[str, Any], added: Sequence[Added], before: Added | None, after: Added | None) -> str:
    """tokenizer.json.

    Args:
        parts: the normalizer, the pre-tokenizer, the model and the decoder.
        before, after: the tokens put around every text.
    """
    ends = [end for end in (before, after) if end]
    single: list[dict[str, Any]] = [{"Sequence": {"id": "A", "type_id": 0}}]
    second: list[dict[str, Any]] = [{"Sequence": {"id": "B", "type_id": 1}}]

    def around(sequence: list[dict[str, Any]], kind: int) -> list[dict[str, Any]]:
        first, last = ([{"SpecialToken": {"id": e.content, "type_id": kind}}] if e else [] for e in (before, after))
        return [*first, *sequence, *last]

    post = {
        "type": "TemplateProcessing", "single": around(single, 0), "pair": around(single, 0) + around(second, 1),
        "special_tokens": {e.content: {"id": e.content, "ids": [e.id], "tokens": [e.content]} for e in ends},
    }   # fmt: skip
    return json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [token.entry() for token in added],
        "post_processor": post if ends else None, **parts,
    }, ensure_ascii=False)   # fmt: skip


def config(tokens: Mapping[str, str | None], **more: Any) -> str:
    """tokenizer_config.json.

    Args:
        tokens: ``bos_token``, ``eos_token``, ... as text.
        more: further keys; those that are None are left out.
    """
    plain = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    stated = {key: value for key, value in {**tokens, **more}.items() if value is not None}
    return json.dumps({**plain, **stated}, ensure_ascii=False, indent=2)
