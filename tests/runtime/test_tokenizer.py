"""Tokenizers: the ids of transformers, and of sentencepiece itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from handmade import reference_tokenizer

from trtc.errors import TrtcError
from trtc.runtime.tokenizer import open_tokenizer

JSON = ["stories260K", "gpt2-shakespeare", "opt-shakespeare", "bloom-shakespeare", "capp-gpt", "tokenizers/phi-3-mini"]
MODELS = ["stories260K", "tokenizers/mistral-v1"]
TEXTS = [
    "Once upon a time", "", " two  spaces ", "line\nbreak\r\n\ttab", "naïve café ☕ 你好 😀👩‍👩‍👧", "a <s> b </s>c",
    "x" * 300, "ROMEO:\nWhat, ho!", "<|user|>\nHi<|end|>\n<|assistant|>\n", "geometry_freeform <SOS> x",
]   # fmt: skip


@pytest.mark.parametrize("name", JSON)
def test_tokenizer_json_gives_the_ids_and_texts_of_transformers(shared_models: Path, name: str) -> None:
    ours: Any = open_tokenizer(shared_models / name / "tokenizer.json")
    theirs = reference_tokenizer(shared_models / name)
    for text in TEXTS:
        ids = theirs(text).input_ids
        assert ours.encode(text) == ids, text
        assert ours.encode(text, special=False) == theirs(text, add_special_tokens=False).input_ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("config", [{"legacy": True}, {"legacy": False}, {"add_prefix_space": False}, {"legacy": None}])
def test_the_llama_class_puts_spaces_its_own_way(shared_models: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    shutil.copy(shared_models / "stories260K/tokenizer.json", tmp_path)
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", **config}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = reference_tokenizer(tmp_path)
    ours = open_tokenizer(tmp_path / "tokenizer.json")
    assert [ours.encode(text) for text in TEXTS] == [theirs(text).input_ids for text in TEXTS]


@pytest.mark.parametrize("post_processor", [True, False])
@pytest.mark.parametrize("add_bos_token", [None, True, False])
def test_the_post_processor_alone_decides_about_bos(
    shared_models: Path, tmp_path: Path, post_processor: bool, add_bos_token: bool | None
) -> None:
    spec = json.loads((shared_models / "stories260K/tokenizer.json").read_text())
    if not post_processor:
        spec["post_processor"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    config = json.loads((shared_models / "stories260K/tokenizer_config.json").read_text())
    if add_bos_token is not None:
        config["add_bos_token"] = add_bos_token
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = reference_tokenizer(tmp_path)
    ids = open_tokenizer(tmp_path / "tokenizer.json").encode("Once")
    assert ids == theirs("Once").input_ids
    assert (ids[0] == 1) is post_processor


def test_padding_and_truncation_in_the_file_do_not_touch_prompts(shared_models: Path, tmp_path: Path) -> None:
    spec = json.loads((shared_models / "stories260K/tokenizer.json").read_text())
    want = open_tokenizer(shared_models / "stories260K/tokenizer.json").encode("Once upon a time")
    spec["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    spec["padding"] = {
        "strategy": {"Fixed": 12}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>",
    }   # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    assert open_tokenizer(tmp_path / "tokenizer.json").encode("Once upon a time") == want


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("config", [None, {}, *({"add_bos_token": value} for value in (True, None, False))])
def test_sentencepiece_models_get_bos_unless_told(
    shared_models: Path, tmp_path: Path, name: str, config: dict[str, Any] | None
) -> None:
    shutil.copy(shared_models / name / "tokenizer.model", tmp_path)
    if config is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours = open_tokenizer(tmp_path / "tokenizer.model")
    reference: Any = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))   # pyright: ignore
    bos = [] if config == {"add_bos_token": False} else [1]
    for text in (t for t in TEXTS if "<s>" not in t):
        assert ours.encode(text) == bos + reference.encode(text)
        assert ours.encode(text, special=False) == reference.encode(text)
        assert ours.decode(ours.encode(text)) == reference.decode(reference.encode(text))


def test_both_files_of_a_model_agree(shared_models: Path) -> None:
    by_json, by_model = (
        open_tokenizer(shared_models / "stories260K" / name) for name in ("tokenizer.json", "tokenizer.model")
    )
    for text in TEXTS[:1] + TEXTS[2:5] + TEXTS[6:]:
        assert by_json.encode(text) == by_model.encode(text)
    golden = json.loads((shared_models / "stories260K/GOLDEN.json").read_text())
    for entry in golden:
        assert by_model.encode(entry["prompt"]) == entry["input_ids"]


def test_sentencepiece_takes_control_tokens_in_text_as_transformers_does(shared_models: Path, tmp_path: Path) -> None:
    shutil.copy(shared_models / "stories260K/tokenizer.model", tmp_path)
    config = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "legacy": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = reference_tokenizer(tmp_path)
    text = "<s>Once upon</s><s>a time"
    assert open_tokenizer(tmp_path / "tokenizer.model").encode(text) == theirs(text).input_ids


def test_tokens_without_text(shared_models: Path) -> None:
    for name in ("tokenizer.json", "tokenizer.model"):
        tokenizer = open_tokenizer(shared_models / "stories260K" / name)
        assert [i for i in range(520) if tokenizer.is_hidden(i)] == [0, 1, 2, *range(512, 520)]
        assert tokenizer.decode([1, 403, 515, 2, 407]) == "Once upon"


def test_unreadable_files(shared_models: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"version": ')
    with pytest.raises(TrtcError) as error:
        open_tokenizer(tmp_path / "tokenizer.json")
    assert str(error.value).replace(str(tmp_path), "ENGINE") == (
        "error: ENGINE/tokenizer.json cannot be read as a tokenizer: EOF while parsing a value at line 1 column 12"
    )
    (tmp_path / "tokenizer.model").write_bytes(b"\x00\x01")
    with pytest.raises(TrtcError) as error:
        open_tokenizer(tmp_path / "tokenizer.model")
    assert str(error.value).replace(str(tmp_path), "ENGINE").startswith(
        "error: ENGINE/tokenizer.model cannot be read as a tokenizer: "
    )
    shutil.copy(shared_models / "stories260K/tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(TrtcError) as error:
        open_tokenizer(tmp_path / "tokenizer.json")
    assert str(error.value).replace(str(tmp_path), "ENGINE") == (
        "error: ENGINE/tokenizer_config.json cannot be read: "
        "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
    )
    (tmp_path / "tokenizer_config.json").write_text("[" * 100_000)
    with pytest.raises(TrtcError, match="cannot be read: maximum recursion depth exceeded"):
        open_tokenizer(tmp_path / "tokenizer.json")
