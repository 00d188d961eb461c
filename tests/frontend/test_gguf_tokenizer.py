"""Tokenizers in GGUF files: they give the tokens of what they were made of, and of what transformers makes of them.

The files are written with llama.cpp's own package; the tokenizers are trained here, by sentencepiece and by tokenizers.
"""

from __future__ import annotations

import io
import json
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import pytest
from fuzz import cases
from hypothesis import given, settings
from hypothesis import strategies as st

import trtc
from trtc.errors import TrtcError
from trtc.frontend.config import Keys
from trtc.frontend.gguf_tokenizer import SPLITS, tokenizer_of
from trtc.frontend.sources.gguf import read_header
from trtc.runtime.chat import ChatTemplate
from trtc.runtime.tokenizer import open_tokenizer

gguf: Any = import_module("gguf")
tokenizers: Any = import_module("tokenizers")
sentencepiece: Any = import_module("sentencepiece")
theirs: Any = import_module("transformers.integrations.gguf.gguf_tokenizer_mapping")
ROOT = Path(__file__).parents[2]
SHARED = Path(__file__).parents[3] / "shared"
CORPUS = [line for file in sorted((ROOT / "docs").glob("*.md")) for line in file.read_text().splitlines()]
TEXTS = [
    *CORPUS[:120], "", " ", "  two spaces, then ", "Hello, world!\n\n\tTabs\tand  spaces\r\n", "I'LL we've DON'T it's",
    "12345 678", "naïve café Straße 日本語 עברית 🙂🙃 \u0301", "x" * 50, "<s>no bos</s> <|user|> hi", "\u2581under",
    "a<0x41>b", "\x00\x7f",
]   # fmt: skip
TEMPLATE = "{{ bos_token }}{% for m in messages %}<|user|>{{ m['content'] }}{% endfor %}"


def write(file: Path, kind: str, tokens: list[str], types: list[int], **more: Any) -> Path:
    """A GGUF file of no tensors."""
    writer = gguf.GGUFWriter(file, more.pop("arch", "llama"))
    writer.add_tokenizer_model(kind)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    for name, value in more.items():
        getattr(writer, f"add_{name}")(value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return file


def made(file: Path, folder: Path) -> Any:
    """The tokenizer as an engine has it."""
    keys = Keys(read_header(file).metadata, file.name)
    folder.mkdir()
    for written in tokenizer_of(keys, file.parent):
        with written.open() as content:
            (folder / written.name).write_bytes(content.read())
    return open_tokenizer(folder / "tokenizer.json")


def converted(file: Path) -> Any:
    """The tokenizer that transformers makes of it, but for what it puts around texts."""
    architecture, stated, _ = theirs.get_gguf_tokenizer(str(file))
    return theirs.convert_gguf_tokenizer(architecture, stated)[0]


@pytest.fixture(scope="session")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A model of sentencepiece: BPE with bytes, a token for control and one of its own."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=model, model_type="bpe", vocab_size=900, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, control_symbols=["<|user|>"],
        user_defined_symbols=["<think>"], pad_id=3, minloglevel=2,
    )   # fmt: skip
    return model.getvalue()


def sentencepiece_file(folder: Path, model: bytes, **more: Any) -> Path:
    """What convert_hf_to_gguf.py makes of a tokenizer.model."""
    words = sentencepiece.SentencePieceProcessor(model_proto=model)
    every = range(words.vocab_size())
    kinds = [
        2 if words.is_unknown(i) else 3 if words.is_control(i) else 5 if words.is_unused(i) else 6 if words.is_byte(i)
        else 4 if words.id_to_piece(i) == "<think>" else 1
        for i in every
    ]   # fmt: skip
    stated = {
        "token_scores": [words.get_score(i) for i in every], "bos_token_id": words.bos_id(),
        "eos_token_id": words.eos_id(), "unk_token_id": words.unk_id(), **more,
    }   # fmt: skip
    return write(folder / "tiny.gguf", "llama", [words.id_to_piece(i) for i in every], kinds, **stated)


def test_sentencepiece_gives_the_same_tokens_and_texts(tmp_path: Path, pieces: bytes) -> None:
    file = sentencepiece_file(tmp_path, pieces)
    ours, words = made(file, tmp_path / "engine"), sentencepiece.SentencePieceProcessor(model_proto=pieces)
    plain = [text for text in TEXTS if text and "<|" not in text and "<s>" not in text]   # which sentencepiece spells
    for text in plain:
        assert ours.encode(text) == [1, *words.encode(text)], text
        assert ours.encode(text, special=False) == words.encode(text)
        assert ours.decode(ours.encode(text)) == words.decode(words.encode(text))
    assert words.piece_to_id("<|user|>") in ours.encode("a<|user|>b<think>")
    assert ours.is_hidden(words.piece_to_id("<|user|>")) and not ours.is_hidden(words.piece_to_id("<think>"))
    assert ours.is_byte(words.piece_to_id("<0x41>"))


def test_sentencepiece_is_what_transformers_makes_of_the_file(tmp_path: Path, pieces: bytes) -> None:
    file = sentencepiece_file(tmp_path, pieces, arch="phi3")   # whose spaces are put as llama.cpp does
    ours, expected = made(file, tmp_path / "engine"), converted(file)
    for text in TEXTS:
        assert ours.encode(text, special=False) == expected.encode(text, add_special_tokens=False).ids, text


def test_gemma_has_no_space_before_a_text(tmp_path: Path, pieces: bytes) -> None:
    file = sentencepiece_file(tmp_path, pieces, arch="gemma2", add_space_prefix=False)
    ours, expected = made(file, tmp_path / "engine"), converted(file)
    for text in TEXTS:
        assert ours.encode(text, special=False) == expected.encode(text, add_special_tokens=False).ids, text
        if "<|user|>" not in text and "<s>" not in text:
            assert ours.decode(ours.encode(text)) == text.replace("\u2581", " ")


@pytest.fixture(scope="session")
def level() -> dict[str, Any]:
    """A tokenizer.json of BPE over bytes."""
    words: Any = tokenizers.Tokenizer(tokenizers.models.BPE())
    words.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator(CORPUS, tokenizers.trainers.BpeTrainer(
        vocab_size=900, special_tokens=["<|endoftext|>", "<|user|>"], initial_alphabet=alphabet, show_progress=False
    ))   # fmt: skip
    return json.loads(words.to_str())


def byte_file(folder: Path, stated: dict[str, Any], **more: Any) -> Path:
    """What convert_hf_to_gguf.py makes of a tokenizer.json."""
    vocabulary: dict[str, int] = stated["model"]["vocab"]
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in stated["model"]["merges"]]
    own = {token["content"]: 3 if token["special"] else 4 for token in stated["added_tokens"]}
    kinds = [own.get(token, 1) for token in tokens]
    return write(folder / "tiny.gguf", "gpt2", tokens, kinds, token_merges=merges, **more)


def test_bytes_give_the_same_tokens_and_texts(tmp_path: Path, level: dict[str, Any]) -> None:
    file = byte_file(tmp_path, level, tokenizer_pre="gpt-2", bos_token_id=0, eos_token_id=0)
    ours, original = made(file, tmp_path / "engine"), tokenizers.Tokenizer.from_str(json.dumps(level))
    for text in TEXTS:
        ids = original.encode(text).ids
        assert ours.encode(text) == ids, text
        if "<|user|>" not in text:
            assert ours.decode(ids) == text


PRES = ("llama-bpe", "qwen2", "tekken", "gpt-4o", "gpt-2", "dbrx", "smaug-bpe", "llama4", "deepseek-r1-qwen")


@pytest.mark.parametrize("pre", PRES)
def test_bytes_are_split_as_transformers_does(pre: str, tmp_path: Path, level: dict[str, Any]) -> None:
    file = byte_file(tmp_path, level, tokenizer_pre=pre, bos_token_id=0, add_bos_token=False)
    ours, expected = made(file, tmp_path / "engine"), converted(file)
    for text in TEXTS:
        assert ours.encode(text) == expected.encode(text, add_special_tokens=False).ids, text


def test_digits_stand_alone_where_the_pattern_says_so(tmp_path: Path, level: dict[str, Any]) -> None:
    """Of StarCoder's tokenizer.json: Digits(individual_digits), then GPT-2's ByteLevel."""
    pre = [{"type": "Digits", "individual_digits": True}, {**level["pre_tokenizer"], "use_regex": True}]
    original = tokenizers.Tokenizer.from_str(json.dumps({**level, "pre_tokenizer": {
        "type": "Sequence", "pretokenizers": pre,
    }}))   # fmt: skip
    ours = made(byte_file(tmp_path, level, tokenizer_pre="starcoder"), tmp_path / "engine")
    for text in TEXTS:
        assert ours.encode(text) == original.encode(text).ids, text


AROUND: list[tuple[dict[str, Any], list[int], list[int]]] = [
    ({"bos_token_id": 0, "eos_token_id": 1, "tokenizer_pre": "gpt-2"}, [], []),
    ({"bos_token_id": 0, "eos_token_id": 1, "tokenizer_pre": "llama-bpe"}, [0], []),
    ({"bos_token_id": 0, "eos_token_id": 1, "tokenizer_pre": "llama-bpe", "add_bos_token": False}, [], []),
    ({"bos_token_id": 0, "eos_token_id": 1, "add_bos_token": True, "add_eos_token": True}, [0], [1]),
    ({"add_bos_token": True}, [], []),
]   # fmt: skip


@pytest.mark.parametrize(("more", "before", "after"), AROUND)
def test_tokens_around_a_text(
    more: dict[str, Any], before: list[int], after: list[int], tmp_path: Path, level: dict[str, Any]
) -> None:
    ours = made(byte_file(tmp_path, level, **more), tmp_path / "engine")
    plain = ours.encode("some text", special=False)
    assert ours.encode("some text") == [*before, *plain, *after] and len(plain) > 1


def test_chat_templates(tmp_path: Path, pieces: bytes) -> None:
    made(sentencepiece_file(tmp_path, pieces, chat_template=TEMPLATE), tmp_path / "engine")
    template = ChatTemplate.read(tmp_path / "engine")
    assert template and template.render([{"role": "user", "content": "hi"}]) == "<s><|user|>hi"


def test_a_tokenizer_beside_the_file_comes_first(tmp_path: Path, pieces: bytes) -> None:
    file = sentencepiece_file(tmp_path, pieces)
    keys = Keys(read_header(file).metadata, file.name)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert [f.name for f in tokenizer_of(keys, tmp_path)] == ["tokenizer.json"]
    (tmp_path / "tokenizer.model").write_bytes(pieces)
    assert tokenizer_of(keys, tmp_path) == ()
    assert tokenizer_of(Keys({}, "a.gguf"), tmp_path / "x") == ()


BESIDE = "\n  = help: put the model's tokenizer.json beside the file"
G = "tokenizer.ggml."
GOOD: dict[str, Any] = {
    f"{G}model": "gpt2", f"{G}tokens": ["a", "b", "ab"], f"{G}merges": ["a b"], f"{G}pre": "gpt-2",
    f"{G}bos_token_id": 0,
}   # fmt: skip
ERRORS: list[tuple[dict[str, Any], str]] = [
    ({f"{G}model": "bert"}, f'tokenizer.ggml.model is "bert", but must be llama or gpt2{BESIDE}'),
    ({f"{G}pre": "poro-chat"}, (
        f'tokenizer.ggml.pre is "poro-chat", but must be one of {", ".join(filter(None, SPLITS))}{BESIDE}'
    )),
    ({f"{G}tokens": [1]}, f"tokenizer.ggml.tokens must be a list of texts{BESIDE}"),
    ({f"{G}merges": None}, f"tokenizer.ggml.merges must be a list of texts{BESIDE}"),
    ({f"{G}merges": ["a c"]}, f'tokenizer.ggml.merges is "a c", but must be two tokens that make a third{BESIDE}'),
    ({f"{G}bos_token_id": 3}, "tokenizer.ggml.bos_token_id is 3, but must be one of the 3 tokens"),
    ({f"{G}token_type": [1]}, f"tokenizer.ggml.token_type must be a list of 3 numbers{BESIDE}"),
    ({f"{G}model": "llama", f"{G}scores": [1.0]}, f"tokenizer.ggml.scores must be a list of 3 numbers{BESIDE}"),
]   # fmt: skip


@pytest.mark.parametrize(("changes", "message"), ERRORS)
def test_errors(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(TrtcError) as error:
        tokenizer_of(Keys({**GOOD, **changes}, "tiny.gguf"), tmp_path)
    assert str(error.value) == f"error: tiny.gguf: {message}"


anything = st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | st.text(max_size=4) | (
    st.lists(st.text(alphabet="ab \u2581<>", max_size=4), max_size=4) | st.lists(st.integers(-1, 7), max_size=4)
)   # fmt: skip
MORE = ("token_type", "scores", "add_bos_token", "eos_token_id")
names = st.sampled_from([*GOOD, *(f"{G}{name}" for name in MORE), "tokenizer.chat_template"])
PIECES = {**GOOD, f"{G}model": "llama", f"{G}scores": [0.0, -1.0, -2.0], f"{G}token_type": [2, 1, 1]}
FORMS = st.sampled_from([GOOD, PIECES])


@settings(max_examples=cases(1000), deadline=None)
@given(FORMS, st.dictionaries(names, anything, max_size=3))
def test_any_metadata_are_refused_or_make_a_tokenizer(form: dict[str, Any], changes: dict[str, Any]) -> None:
    try:
        files = tokenizer_of(Keys({**form, **changes}, "tiny.gguf"), Path("/nowhere"))
    except TrtcError:
        return
    for file in files:
        content = json.loads(file.open().read())
        if file.name == "tokenizer.json":
            words = tokenizers.Tokenizer.from_str(json.dumps(content))
            assert isinstance(words.encode("ab a").ids, list)


def shared_texts() -> list[str]:
    """Of real texts, some of each."""
    stories = cast("list[Any]", json.loads((SHARED / "text/tinystories_clean200.json").read_text()))
    lines = (SHARED / "text/wikitext2_test.txt").read_text().splitlines()[:200]
    play = (SHARED / "text/tinyshakespeare.txt").read_text()
    return [*lines, *(play[at : at + 500] for at in range(0, 20000, 500)), *map(str, stories[:30]), *TEXTS]


MODELS = [
    "stories260K/tokenizer.model", "tokenizers/mistral-v1/tokenizer.model", "gpt2-shakespeare/tokenizer.json",
    "opt-shakespeare/tokenizer.json", "tokenizers/phi-3-mini/tokenizer.json",
]   # fmt: skip


@pytest.mark.skipif(not SHARED.is_dir(), reason="the trained models are not here")
@pytest.mark.parametrize("model", MODELS)
def test_tokenizers_of_trained_models(model: str, tmp_path: Path) -> None:
    source = SHARED / "models" / model
    if model.endswith(".model"):
        words: Any = sentencepiece.SentencePieceProcessor(model_file=str(source))
        ours = made(sentencepiece_file(tmp_path, source.read_bytes()), tmp_path / "engine")
        for text in filter(None, shared_texts()):
            if "<s>" not in text and "<unk>" not in text:   # which sentencepiece spells
                assert ours.encode(text, special=False) == words.encode(text), text
                assert ours.decode(words.encode(text)) == words.decode(words.encode(text))
        return
    stated = json.loads(source.read_text())
    original = tokenizers.Tokenizer.from_str(json.dumps(stated))
    if "phi-3" in model:
        vocabulary = {**stated["model"]["vocab"], **{t["content"]: t["id"] for t in stated["added_tokens"]}}
        tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
        own = {token["content"] for token in stated["added_tokens"]}
        kinds = [2 if t == "<unk>" else 3 if t in own else 6 if t.startswith("<0x") else 1 for t in tokens]
        first: dict[str, int] = {}
        for n, pair in enumerate(stated["model"]["merges"]):
            first.setdefault("".join(pair).replace(" ", ""), n)
        scores = [-float(first.get(token, 1 << 20)) for token in tokens]
        file = write(tmp_path / "tiny.gguf", "llama", tokens, kinds, token_scores=scores, unk_token_id=0)
    else:
        file = byte_file(tmp_path, stated, tokenizer_pre="gpt-2")
    ours = made(file, tmp_path / "engine")
    for text in shared_texts():
        if "phi-3" in model and "<|user|>" in text:
            continue   # its own file strips the spaces behind
        ids = original.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, special=False) == ids, text
        assert ours.decode(ids) == original.decode(ids)


def test_engines_and_checkpoints_have_the_tokenizer(tmp_path: Path, pieces: bytes) -> None:
    """A whole model: text in, text out."""
    gguf_files: Any = import_module("gguf_files")
    models: Any = import_module("models")
    words = sentencepiece.SentencePieceProcessor(model_proto=pieces)
    case = models.Case("words", {"hidden_size": 64, "num_hidden_layers": 1, "vocab_size": 900})
    file, _ = gguf_files.write(case, "LLAMA", ("F16",), tmp_path, model=pieces)
    bundle = trtc.compile(file, tmp_path / "engine", target="onnx", **models.LIMITS)
    assert bundle.tokenizer == "tokenizer.json"
    texts = trtc.load(bundle.path).generate(["Directories and files", "files", "and", "Some"], max_new_tokens=3)
    whole = [one for one in texts if not any(map(words.is_byte, one.token_ids))]   # broken characters differ
    assert whole and all(one.text == words.decode(one.token_ids) for one in whole)
    trtc.convert(file, tmp_path / "made")
    assert (tmp_path / "made/tokenizer.json").read_bytes() == (bundle.path / "tokenizer.json").read_bytes()
