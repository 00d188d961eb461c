"""The model in examples/shakespeare is what its files say, and the script that made it still runs."""

from __future__ import annotations

import hashlib
import json
import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
tokenizers: Any = import_module("tokenizers")

EXAMPLES = Path(__file__).parents[1] / "examples"
MODEL, SCRIPT = EXAMPLES / "shakespeare", EXAMPLES / "train.py"
GOLDEN: list[dict[str, Any]] = json.loads((MODEL / "GOLDEN.json").read_text(encoding="utf-8"))
SHORT, LONG = min(GOLDEN, key=lambda one: len(one["input_ids"])), max(GOLDEN, key=lambda one: len(one["input_ids"]))
TINY = "--vocab 270 --hidden 8 --layers 1 --heads 2 --kv-heads 1 --intermediate 8 --context 16 --batch 2 --steps 3"


def read_header(file: Path) -> dict[str, dict[str, Any]]:
    """The tensors of a safetensors file by its format: a u64 length, then JSON."""
    data = file.read_bytes()
    return {
        name: entry
        for name, entry in json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).items()
        if name != "__metadata__"
    }


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def model() -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)


def test_weights_are_float16_and_small() -> None:
    tensors = read_header(MODEL / "model.safetensors")
    assert {entry["dtype"] for entry in tensors.values()} == {"F16"}
    assert (MODEL / "model.safetensors").stat().st_size < 3_000_000
    assert "model.embed_tokens.weight" in tensors and "lm_head.weight" not in tensors  # tied


def test_config_is_grouped_query_and_tied() -> None:
    config = json.loads((MODEL / "config.json").read_text())
    assert (config["architectures"], config["dtype"]) == (["LlamaForCausalLM"], "float16")
    assert config["num_attention_heads"] == 2 * config["num_key_value_heads"]
    assert config["tie_word_embeddings"] is True
    assert config["vocab_size"] == tokenizers.Tokenizer.from_file(str(MODEL / "tokenizer.json")).get_vocab_size()


def test_training_report_fits_the_files() -> None:
    report = json.loads((MODEL / "TRAINING.json").read_text())
    config = json.loads((MODEL / "config.json").read_text())
    sizes = [entry["data_offsets"] for entry in read_header(MODEL / "model.safetensors").values()]
    assert report["parameters"] == sum(end - start for start, end in sizes) // 2
    assert report["settings"]["context"] == config["max_position_embeddings"]
    assert report["best"]["validation_bits_per_byte"] < 2.1


def test_golden_prompts_differ_and_choose_clearly(tokenizer: Any) -> None:
    assert len(GOLDEN) == 6 and len({len(one["input_ids"]) for one in GOLDEN}) == 6
    assert len(SHORT["input_ids"]) <= 3
    for one in GOLDEN:
        assert len(one["greedy_new_ids"]) == 96 and one["min_top2_logit_gap"] > 0.02
        assert tokenizer(one["prompt"]).input_ids == one["input_ids"]
        assert tokenizer.decode(one["greedy_new_ids"]) == one["text"]


@pytest.mark.parametrize("golden", [SHORT, LONG], ids=["shortest", "longest"])
def test_generate_gives_the_golden_ids(model: Any, golden: dict[str, Any]) -> None:
    ids = model.generate(torch.tensor([golden["input_ids"]]), max_new_tokens=96, do_sample=False)
    assert ids[0].tolist() == golden["input_ids"] + golden["greedy_new_ids"]


@pytest.mark.parametrize(
    "text", ["ROMEO:\nIt is my lady, O, it is my love!\n", "  two  spaces , ", "naïve — 日本 🙂\t\n\n"]
)
def test_tokenizer_round_trips(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.bos_token_id == 0
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizers.Tokenizer.from_file(str(MODEL / "tokenizer.json")).encode(text).ids == ids


def test_train_writes_a_directory_that_transformers_loads(tmp_path: Path) -> None:
    text = "".join(f"Line {number}:\nthe quick brown fox is number {number * 7}.\n\n" for number in range(60))
    (tmp_path / "text.txt").write_text(text)
    command = [sys.executable, SCRIPT, tmp_path / "text.txt", "-o", tmp_path / "model", *TINY.split()]
    done = subprocess.run([*command, "--golden-tokens", "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "model").iterdir()} == {path.name for path in MODEL.iterdir()}
    report = json.loads((tmp_path / "model" / "TRAINING.json").read_text())
    assert report["text"]["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    golden = json.loads((tmp_path / "model" / "GOLDEN.json").read_text())[1]
    inputs = tokenizer(golden["prompt"], return_tensors="pt").input_ids
    ids = model.generate(inputs, max_new_tokens=2, do_sample=False)
    assert ids[0].tolist() == golden["input_ids"] + golden["greedy_new_ids"]


def test_train_refuses_too_little_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text("a few words")
    message = "train.py: error: last tenth of the text: 2 tokens, but must be at least --context 16"
    assert refusal(capsys, tmp_path / "text.txt", "-o", tmp_path / "model", *TINY.split()) == (2, message)
    assert not list((tmp_path / "model").iterdir())


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[object, str]:
    """The exit code of the script and the last line that it prints."""
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT))["main"]([*map(str, arguments)])
    return stop.value.code, capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--heads 3", "--heads: 3, but must be a multiple of --kv-heads 2"),
        ("--hidden 36", "--hidden: 36, but must be a multiple of twice --heads 4"),
        ("--seed 1", "[Errno 2] No such file or directory: 'nowhere.txt'"),
    ],
)
def test_train_refuses_bad_options(capsys: pytest.CaptureFixture[str], options: str, message: str) -> None:
    refused = refusal(capsys, "nowhere.txt", "-o", "nowhere", *options.split())
    assert refused == (2, f"train.py: error: {message}")
    assert not Path("nowhere").exists()
