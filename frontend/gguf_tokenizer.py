"""The tokenizer in the metadata of a GGUF file, as tokenizer.json and tokenizer_config.json.

Source: src/llama-vocab.cpp of llama.cpp: ``llama`` is SentencePiece's BPE, where the score of a token says how early it
is merged; ``gpt2`` is BPE over bytes, whose patterns ``tokenizer.ggml.pre`` names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from trtc.errors import TrtcError
from trtc.frontend import tokenizer_json
from trtc.frontend.checkpoint import TOKENIZER_FILES
from trtc.frontend.config import Keys
from trtc.frontend.sources.written import Written
from trtc.frontend.tokenizer_json import GPT2, LLAMA3, SPACE, Added, all_merges

PREFIX = "tokenizer.ggml."
NORMAL, UNKNOWN, CONTROL, OWN, BYTE = 1, 2, 3, 4, 6   # types of tokens
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
ENDINGS, REST = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?", r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|\p{{N}}{REST}"
GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{ENDINGS}"
    rf"|\p{{N}}{{1,3}}{REST}"
)


@dataclass(frozen=True)
class Split:
    """How texts are cut before bytes are merged.

    Args:
        patterns: one after the other.
        whole: a piece that is a token is not merged.
        bos: whether a text begins with the token for it where the file does not say.
    """

    patterns: tuple[str, ...]
    whole: bool = False
    bos: bool = False


SPLITS = {
    **dict.fromkeys(("", "default", "gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "olmo", "jais", "trillion",
                     "granite-docling"), Split((GPT2,))),
    **dict.fromkeys(("starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"),
                    Split((r"\p{N}", GPT2))),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "lfm2"), Split((LLAMA3,), True, True)),
    **dict.fromkeys(("dbrx", "smaug-bpe"), Split((LLAMA3,))),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan"), Split((QWEN2,))),
    "tekken": Split((TEKKEN,), True, True),
    **dict.fromkeys(("gpt-4o", "llama4"), Split((GPT4O,))),
}   # fmt: skip
"""By ``tokenizer.ggml.pre``."""
BESIDE = "help: put the model's tokenizer.json beside the file"


def tokenizer_of(keys: Keys, folder: Path) -> tuple[Written, ...]:
    """The files of the tokenizer; none where files of one lie in the folder, or the metadata have none.

    Errors:
        TrtcError: it is of a kind that is not known, or damaged.
    """
    kind = keys.get(str, f"{PREFIX}model", default="")
    if kind in ("", "none", "no_vocab") or any((folder / n).is_file() for n in ("tokenizer.json", "tokenizer.model")):
        return ()
    if kind not in ("llama", "gpt2"):
        raise keys.wrong(f"{PREFIX}model", kind, "llama or gpt2", BESIDE)
    words = Words.read(keys)
    make = (_sentencepiece if kind == "llama" else _byte_level)(keys, words)
    bos = kind == "llama" or _split(keys).bos
    before, after = (
        words.added(end) if keys.get(bool, f"{PREFIX}add_{end}_token", default=default) else None
        for end, default in (("bos", bos), ("eos", False))
    )
    files = (
        Written("tokenizer.json", lambda: tokenizer_json.document(make(), words.every_added(), before, after)),
        Written("tokenizer_config.json", partial(tokenizer_json.config, words.texts(), chat_template=_template(keys))),
    )
    return tuple(file for file in files if file.name in TOKENIZER_FILES and not (folder / file.name).is_file())


@dataclass(frozen=True)
class Words:
    """The vocabulary: each token's text and type, and the ids of those that have a part of their own."""

    tokens: list[str]
    types: list[int]
    special: dict[str, int]

    @staticmethod
    def read(keys: Keys) -> Words:
        tokens = _strings(keys, f"{PREFIX}tokens")
        types = _numbers(keys, f"{PREFIX}token_type", len(tokens), NORMAL)
        names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
        special: dict[str, int] = {}
        for name, theirs in names.items():
            key = f"{PREFIX}{theirs}_token_id"
            if keys.values.get(key) is None:
                continue
            special[name] = keys.get(int, key)
            if not 0 <= special[name] < len(tokens):
                raise keys.wrong(key, special[name], f"one of the {len(tokens)} tokens")
        return Words(tokens, [int(t) for t in types], special)

    def texts(self) -> dict[str, str | None]:
        """Those that have a part of their own, as tokenizer_config.json has them."""
        return {f"{name}_token": self.tokens[i] for name, i in self.special.items()}

    def added(self, name: str) -> Added | None:
        return Added(self.special[name], self.tokens[self.special[name]], True) if name in self.special else None

    def every_added(self) -> list[Added]:
        """Tokens that are found in a text before all others: those for control, special ones, and the model's own."""
        ends = set(self.special.values())
        every = enumerate(zip(self.tokens, self.types, strict=True))
        return [
            Added(i, token, kind != OWN or i in ends)
            for i, (token, kind) in every
            if token and (kind in (UNKNOWN, CONTROL, OWN) or i in ends)
        ]

    def vocabulary(self) -> dict[str, int]:
        made: dict[str, int] = {}
        for i, token in enumerate(self.tokens):
            made.setdefault(token, i)
        return made


def _sentencepiece(keys: Keys, words: Words) -> Callable[[], dict[str, Any]]:
    """Merges by scores; those of Gemma do not follow them, but the order of the tokens."""
    scores = _numbers(keys, f"{PREFIX}scores", len(words.tokens), 0.0)
    gemma = keys.get(str, "general.architecture", default="").startswith("gemma")
    prefix = keys.get(bool, f"{PREFIX}add_space_prefix", default=True)
    spelt = [SPACE * len(t) if t and not t.strip(" ") else t for t in words.tokens]
    words = Words(spelt, words.types, words.special)
    found = [token for token, kind in zip(spelt, words.types, strict=True) if kind == UNKNOWN]
    unknown = next(iter(found), words.texts().get("unk_token"))

    def make() -> dict[str, Any]:
        vocabulary = words.vocabulary()
        own = {token: i for token, i in vocabulary.items() if token and words.types[i] in (NORMAL, OWN)}
        rank = {token: float(i) if gemma else -scores[i] for token, i in own.items()}
        merges = all_merges(vocabulary, rank)
        fallback = BYTE in words.types
        return tokenizer_json.sentencepiece(vocabulary, merges, unknown=unknown, prefix=prefix, fallback=fallback)

    return make


def _byte_level(keys: Keys, words: Words) -> Callable[[], dict[str, Any]]:
    vocabulary, split = words.vocabulary(), _split(keys)
    merges = [merge.split(" ") for merge in _strings(keys, f"{PREFIX}merges")]
    for pair in merges:
        if len(pair) != 2 or not {*pair, "".join(pair)} <= vocabulary.keys():
            raise keys.wrong(f"{PREFIX}merges", " ".join(pair), "two tokens that make a third", BESIDE)
    return lambda: tokenizer_json.byte_level(vocabulary, merges, split.patterns, whole=split.whole)


def _split(keys: Keys) -> Split:
    name = keys.get(str, f"{PREFIX}pre", default="")
    if name not in SPLITS:
        raise keys.wrong(f"{PREFIX}pre", name, f"one of {', '.join(filter(None, SPLITS))}", BESIDE)
    return SPLITS[name]


def _template(keys: Keys) -> str | None:
    return keys.get(str, "tokenizer.chat_template", default="") or None


def _strings(keys: Keys, key: str) -> list[str]:
    value: Any = keys.values.get(key)
    texts = cast("list[Any]", value) if isinstance(value, list) else []
    if not texts or not all(isinstance(text, str) for text in texts):
        raise TrtcError(f"{keys.file}: {key} must be a list of texts", BESIDE)
    return texts


def _numbers(keys: Keys, key: str, count: int, default: float) -> list[float]:
    value: Any = keys.values.get(key)
    if value is None:
        return [default] * count
    numbers = cast("list[Any]", value) if isinstance(value, list) else []
    if len(numbers) != count or not all(isinstance(n, int | float) and n == n for n in numbers):
        raise TrtcError(f"{keys.file}: {key} must be a list of {count} numbers", BESIDE)
    return numbers
