"""LLaMA 3's tokenizers in Meta's directories: the tokens that tiktoken's definition gives.

The oracle merges bytes as tiktoken/_educational.py does: the pair of the least rank, until there is none.
"""

from __future__ import annotations

import base64
import json
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fuzz import cases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sources import damaged

import trtc
from trtc.errors import TrtcError
from trtc.frontend import open_checkpoint
from trtc.frontend.tiktoken import is_tiktoken, read_ranks, tokenizer_of
from trtc.runtime.tokenizer import Tokenizer, open_tokenizer

torch: Any = import_module("torch")
tokenizers: Any = import_module("tokenizers")
ROOT = Path(__file__).parents[2]
CORPUS = [line for file in sorted((ROOT / "docs").glob("*.md")) for line in file.read_text().splitlines()]
TEXTS = [
    *CORPUS[:80], "", " ", "  two spaces, then ", "Hello, world!\n\n\tTabs\r\n", "I'LL we've DON'T", "12345 678",
    "na\u00efve caf\u00e9 \u65e5\u672c\u8a9e \U0001f642 \u0301", "x" * 50,
]   # fmt: skip


@pytest.fixture(scope="session")
def ranks() -> dict[bytes, int]:
    """Tokens as BPE learns them: bytes first, then merges in order."""
    words: Any = tokenizers.Tokenizer(tokenizers.models.BPE())
    level = tokenizers.pre_tokenizers.ByteLevel
    words.pre_tokenizer = level(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=700, initial_alphabet=level.alphabet(), show_progress=False)
    words.train_from_iterator(CORPUS, trainer)
    decoder: Any = import_module("transformers.convert_slow_tokenizer").bytes_to_unicode()
    byte_of = {character: byte for byte, character in decoder.items()}
    learnt: dict[str, int] = words.get_vocab()
    tokens = [bytes(byte_of[c] for c in token) for token in sorted(learnt, key=lambda t: learnt[t])]
    return {token: n for n, token in enumerate(tokens)}


def serialized(ranks: dict[bytes, int]) -> bytes:
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items())


def merged(piece: bytes, ranks: dict[bytes, int]) -> list[int]:
    """The definition, by trying every pair."""
    parts = [bytes([byte]) for byte in piece]
    while True:
        pairs = [(ranks.get(a + b), n) for n, (a, b) in enumerate(pairwise(parts))]
        known = [(rank, n) for rank, n in pairs if rank is not None]
        if not known:
            return [ranks[part] for part in parts]
        _, n = min(known)
        parts[n : n + 2] = [parts[n] + parts[n + 1]]


PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def expected(text: str, ranks: dict[bytes, int]) -> list[int]:
    cut = tokenizers.pre_tokenizers.Split(tokenizers.Regex(PATTERN), "isolated")
    return [i for piece, _ in cut.pre_tokenize_str(text) for i in merged(piece.encode(), ranks)]


def written(folder: Path, ranks: dict[bytes, int], words: int, *, later: bool = False) -> Tokenizer:
    folder.mkdir(exist_ok=True)
    for file in tokenizer_of(ranks, words, later=later):
        (folder / file.name).write_bytes(file.open().read())
    return open_tokenizer(folder / "tokenizer.json")


def test_tokens_are_those_of_tiktoken(tmp_path: Path, ranks: dict[bytes, int]) -> None:
    ours = written(tmp_path, ranks, len(ranks) + 256)
    for text in TEXTS:
        ids = expected(text, ranks)
        assert ours.encode(text) == [len(ranks), *ids], text
        assert ours.decode(ids) == text


def test_special_tokens_are_those_of_the_published_lists(tmp_path: Path, ranks: dict[bytes, int]) -> None:
    """meta-llama's tokenizer.json: 3 has 251 reserved tokens, 3.1 has 248."""
    first = len(ranks)
    third, later = (written(tmp_path / str(n), ranks, first + 256, later=bool(n)) for n in range(2))
    names = {6: "start_header_id", 7: "end_header_id", 9: "eot_id", 255: "reserved_special_token_250"}
    for place, name in names.items():
        assert third.encode(f"<|{name}|>", special=False) == [first + place]
    names = {8: "eom_id", 10: "python_tag", 4: "finetune_right_pad_id", 5: "reserved_special_token_2",
             255: "reserved_special_token_247"}   # fmt: skip
    for place, name in names.items():
        assert later.encode(f"<|{name}|>", special=False) == [first + place]
    assert later.is_hidden(first) and not later.is_hidden(first - 1)


@pytest.fixture
def folder(tmp_path: Path, ranks: dict[bytes, int]) -> Path:
    """A model of Meta's, of one layer."""
    words = len(ranks) + 256
    shapes = {
        "tok_embeddings": (words, 8), "output": (words, 8), "norm": (8,), "layers.0.attention_norm": (8,),
        "layers.0.ffn_norm": (8,), **{f"layers.0.attention.w{k}": (8, 8) for k in "qkvo"},
        "layers.0.feed_forward.w1": (32, 8), "layers.0.feed_forward.w2": (8, 32), "layers.0.feed_forward.w3": (32, 8),
    }   # fmt: skip
    made = tmp_path / "model"
    made.mkdir()
    torch.save({f"{k}.weight": torch.randn(*shape) for k, shape in shapes.items()}, made / "consolidated.00.pth")
    params = {"dim": 8, "n_heads": 2, "n_layers": 1, "multiple_of": 32, "vocab_size": words, "rope_theta": 500000.0}
    (made / "params.json").write_text(json.dumps(params))
    (made / "tokenizer.model").write_bytes(serialized(ranks))
    return made


def test_engines_take_text(folder: Path, tmp_path: Path, ranks: dict[bytes, int]) -> None:
    first = len(ranks)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.generation["bos_token_id"] == first
    assert checkpoint.generation["eos_token_ids"] == [first + 1, first + 8, first + 9]
    bundle = trtc.compile(folder, tmp_path / "engine", target="onnx", max_seq_len=16, max_batch_size=1)
    assert bundle.tokenizer == "tokenizer.json" and not (bundle.path / "tokenizer.model").exists()
    (one,) = trtc.load(bundle.path).generate("Some words", max_new_tokens=2)
    assert one.text is not None


WRONG: list[tuple[bytes, str]] = [
    (b"YQ== 0\nYQ== 1\n", "tokenizer.model: line 2 must be a new token in base64, a space and 1"),
    (b"YQ== 0\nYg== 3\n", "tokenizer.model: line 2 must be a new token in base64, a space and 1"),
    (b"YQ== 0\nYg=== 1\n", "tokenizer.model: line 2 must be a new token in base64, a space and 1"),
    (b"YQ== 0\n", "tokenizer.model has no token of byte 0, but must have one of every byte"),
]   # fmt: skip


@pytest.mark.parametrize(("content", "message"), WRONG)
def test_files_that_are_no_tokenizer(content: bytes, message: str, folder: Path) -> None:
    (folder / "tokenizer.model").write_bytes(content)
    with pytest.raises(TrtcError) as error:
        open_checkpoint(folder)
    assert str(error.value) == f"error: {message}"


def test_tokenizers_of_other_models(ranks: dict[bytes, int]) -> None:
    with pytest.raises(TrtcError) as error:
        tokenizer_of(ranks, 705, later=False)
    assert str(error.value) == (
        "error: tokenizer.model has 700 tokens, but a model of 705 words must have 11 less at least"
    )


@settings(max_examples=cases(500), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_is_refused_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    good = serialized({bytes([n]): n for n in range(256)} | {b"ab": 256})
    (tmp_path / "tokenizer.model").write_bytes(damaged(good, data))
    if not is_tiktoken(tmp_path):
        return
    try:
        read = read_ranks(tmp_path / "tokenizer.model")
    except TrtcError:
        return
    assert sorted(read.values()) == list(range(len(read)))
