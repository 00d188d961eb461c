"""tokenizer.model of LLaMA 3, in tiktoken's text form, as tokenizer.json.

Source: tiktoken/load.py: a line a token, its bytes in base64 and its rank, which is its id and says how early it is
merged; llama/tokenizer.py of Meta's repository llama3 and llama_models for the pattern and the special tokens behind.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from pathlib import Path

from trtc.errors import TrtcError
from trtc.frontend import tokenizer_json
from trtc.frontend.sources.written import Written
from trtc.frontend.tokenizer_json import LLAMA3, Added, all_merges, byte_characters, byte_level

FILE = "tokenizer.model"
LINE = re.compile(rb"([A-Za-z0-9+/]+={0,2}) (\d{1,7})")
MAX_SIZE = 64 << 20   # bytes
FIRST = ("begin_of_text", "end_of_text")
NAMED = {False: {6: "start_header_id", 7: "end_header_id", 9: "eot_id"}, True: {
    4: "finetune_right_pad_id", 6: "start_header_id", 7: "end_header_id", 8: "eom_id", 9: "eot_id", 10: "python_tag",
}}   # fmt: skip
"""Special tokens with names, by their place, of LLaMA 3 and from 3.1 on; the others are reserved."""


def is_tiktoken(folder: Path) -> bool:
    """Whether a folder has a tokenizer of this form; other files of the name are SentencePiece's."""
    file = folder / FILE
    if not file.is_file():
        return False
    with file.open("rb") as handle:
        return LINE.fullmatch(handle.readline(1 << 12).rstrip(b"\r\n")) is not None


def read_ranks(file: Path) -> dict[bytes, int]:
    """The bytes of each token, in order.

    Errors:
        TrtcError: a line is none of a token, or ranks do not count from 0.
    """
    if file.stat().st_size > MAX_SIZE:
        raise TrtcError(f"{file.name} has {file.stat().st_size} bytes, but must have at most {MAX_SIZE}")
    made: dict[bytes, int] = {}
    for n, line in enumerate(file.read_bytes().splitlines()):
        found = LINE.fullmatch(line)
        try:
            token = base64.b64decode(found[1], validate=True) if found else b""
        except binascii.Error:
            token = b""
        if not found or not token or int(found[2]) != n or token in made:
            raise TrtcError(f"{file.name}: line {n + 1} must be a new token in base64, a space and {n}")
        made[token] = n
    missing = next((byte for byte in range(256) if bytes([byte]) not in made), None)
    if missing is not None:
        raise TrtcError(f"{file.name} has no token of byte {missing}, but must have one of every byte")
    return made


def tokenizer_of(ranks: Mapping[bytes, int], words: int, *, later: bool) -> tuple[Written, ...]:
    """tokenizer.json and tokenizer_config.json.

    Args:
        words: rows of the embedding, special tokens included.
        later: of LLaMA 3.1 and after.
    Errors:
        TrtcError: there are not as many special tokens as a model has.
    """
    count = words - len(ranks)
    if not 11 <= count <= 1 << 16:
        raise TrtcError(f"{FILE} has {len(ranks)} tokens, but a model of {words} words must have 11 less at least")
    special = [Added(len(ranks) + n, f"<|{name}|>", True) for n, name in enumerate(_names(count, later))]

    def make() -> str:
        characters = byte_characters()
        vocabulary = {"".join(characters[byte] for byte in token): rank for token, rank in ranks.items()}
        merges = all_merges(vocabulary, vocabulary)
        parts = byte_level(vocabulary, merges, (LLAMA3,), whole=True)
        return tokenizer_json.document(parts, special, special[0], None)

    tokens = {"bos_token": special[0].content, "eos_token": special[1].content}
    return (
        Written("tokenizer.json", make), Written("tokenizer_config.json", lambda: tokenizer_json.config(tokens)),
    )   # fmt: skip


def _names(count: int, later: bool) -> list[str]:
    made: list[str] = [*FIRST]
    named, reserved = NAMED[later], 0
    for place in range(len(FIRST), count):
        made.append(named.get(place, f"reserved_special_token_{reserved}"))
        reserved += place not in named
    return made
