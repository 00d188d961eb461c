"""Tokenizers: ``tokenizer.json`` by tokenizers, ``tokenizer.model`` by sentencepiece."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from trtc.errors import TrtcError


class Tokenizer(Protocol):
    """Text to token ids and back."""

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Return the tokens of ``text``; with ``special``, also those that the model wants around it, such as bos."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of the tokens, without special tokens."""
        ...

    def is_hidden(self, token_id: int) -> bool:
        """Return whether the token has no text: special, or beyond the vocabulary."""
        ...

    def is_byte(self, token_id: int) -> bool:
        """Return whether the token is a byte whose text depends on the bytes after it."""
        ...


class JsonTokenizer:
    """``tokenizer.json``; its post-processor decides about bos, as in transformers.

    Args:
        file: the file.
        config: ``tokenizer_config.json``.
    """

    def __init__(self, file: Path, config: dict[str, Any]) -> None:
        tokenizers: Any = import_module("tokenizers")
        text = file.read_text(encoding="utf-8")
        self._tokenizer = tokenizers.Tokenizer.from_str(text)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        bytes_fall_back = '"ByteFallback"' in text
        if bytes_fall_back and config.get("tokenizer_class") in ("LlamaTokenizer", "LlamaTokenizerFast"):
            self._prepend_as_llama(tokenizers, config)
        self._size: int = self._tokenizer.get_vocab_size()
        self._special = {i for i, t in self._tokenizer.get_added_tokens_decoder().items() if t.special}
        names = [f"<0x{byte:02X}>" for byte in range(256)] if bytes_fall_back else []
        self._bytes = {self._tokenizer.token_to_id(name) for name in names}

    def _prepend_as_llama(self, tokenizers: Any, config: dict[str, Any]) -> None:
        """Put spaces before text as transformers does for this class, whatever the file's normalizer says."""
        scheme = "always" if config.get("legacy") else "first"
        if config.get("add_prefix_space") is False:
            scheme = "never"
        self._tokenizer.normalizer = None
        self._tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=special).ids

    def decode(self, token_ids: Sequence[int]) -> str:
        return self._tokenizer.decode(token_ids)

    def is_hidden(self, token_id: int) -> bool:
        return token_id in self._special or token_id >= self._size

    def is_byte(self, token_id: int) -> bool:
        return token_id in self._bytes


class SentencePieceTokenizer:
    """``tokenizer.model``; bos is added unless ``add_bos_token`` of ``tokenizer_config.json`` is false.

    Control tokens spelt out in a text, as chat templates do, are tokens; sentencepiece alone would spell them.

    Args:
        file: the file.
        config: ``tokenizer_config.json``.
    """

    def __init__(self, file: Path, config: dict[str, Any]) -> None:
        sentencepiece: Any = import_module("sentencepiece")
        self._processor = sentencepiece.SentencePieceProcessor(model_file=str(file))
        bos: int = self._processor.bos_id()
        self._prefix = [bos] if bos >= 0 and config.get("add_bos_token", True) is not False else []
        self._size: int = self._processor.vocab_size()
        control = filter(self._processor.is_control, range(self._size))
        self._control: dict[str, int] = {self._processor.id_to_piece(i): i for i in control}
        self._split = re.compile(f"({'|'.join(map(re.escape, self._control))})")

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        token_ids = list(self._prefix) if special else []
        for part in self._split.split(text) if self._control else [text]:
            token_ids += [self._control[part]] if part in self._control else self._processor.encode(part)
        return token_ids

    def decode(self, token_ids: Sequence[int]) -> str:
        return self._processor.decode([i for i in token_ids if not self.is_hidden(i)])

    def is_hidden(self, token_id: int) -> bool:
        processor = self._processor
        return token_id >= self._size or processor.is_control(token_id) or processor.is_unknown(token_id)

    def is_byte(self, token_id: int) -> bool:
        return False   # sentencepiece decodes a byte run character by character


def read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """Read ``tokenizer_config.json``; an absent file is an empty one."""
    file = folder / "tokenizer_config.json"
    if not file.exists():
        return {}
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise TrtcError(f"{file} cannot be read: {error}") from None


def open_tokenizer(file: Path) -> Tokenizer:
    """Read a tokenizer.

    Args:
        file: ``tokenizer.json`` or a sentencepiece ``.model``; ``tokenizer_config.json`` may lie beside it.
    Errors:
        TrtcError: it is damaged.
    """
    config = read_tokenizer_config(file.parent)
    kind = SentencePieceTokenizer if file.suffix == ".model" else JsonTokenizer
    try:
        return kind(file, config)
    except Exception as error:   # tokenizers raises Exception itself, sentencepiece RuntimeError
        raise TrtcError(f"{file} cannot be read as a tokenizer: {error}") from error
