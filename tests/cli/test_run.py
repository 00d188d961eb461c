"""``trtc run`` and the frame that all commands share."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from commandline import MODEL
from handmade import write_script, write_tiny

import trtc.cli
import trtc.runtime.generate
from trtc.cli import _shared

STORY = "Hello, 你好! The end. After"
Trtc = Callable[..., tuple[int, str, str]]


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """A model that knows STORY by heart."""
    return write_script(tmp_path / "engine", STORY)


@pytest.fixture
def trtc_(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Trtc:
    """Run a command in this process; returns the exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["trtc", *map(str, arguments)])
        monkeypatch.setattr(_shared.settings, "quiet", False)
        monkeypatch.setattr(_shared.settings, "verbose", False)
        monkeypatch.setattr(_shared.settings, "log_json", False)
        with pytest.raises(SystemExit) as ended:
            trtc.cli.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def test_one_prompt_reads_as_a_whole(trtc_: Trtc, engine: Path) -> None:
    assert trtc_("run", engine, "--prompt", "Hello", "--max-new-tokens", 20) == (0, STORY[:21] + "\n", "")


def test_several_prompts_are_printed_in_order(trtc_: Trtc, engine: Path) -> None:
    prompts = ["--prompt", "Hello, 你好! ", "--prompt", "He", "--prompt", "Hello, 你"]   # the second ends first
    code, out, _ = trtc_("run", engine, *prompts, "--stop", ",", "--max-new-tokens", 4)
    assert (code, out) == (0, "Hello, 你好! The \nHello\nHello, 你好!\n")


def test_prompts_by_ids_and_from_a_file(trtc_: Trtc, engine: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts").write_text("He\nHell\n")
    ids = ["--prompt-ids", "72,101,108", "--prompt-ids", "72"]
    code, out, _ = trtc_("run", engine, "--input-file", tmp_path / "prompts", *ids, "--max-new-tokens", 1)
    assert (code, out) == (0, "Hell\nHe\nHel\nHello\n")


def test_a_model_without_a_tokenizer_prints_ids(trtc_: Trtc, tmp_path: Path) -> None:
    tiny = write_tiny(tmp_path)
    new = tiny.greedy([3, 4], 4)
    code, out, _ = trtc_("run", tmp_path, "--prompt-ids", "3,4", "--max-new-tokens", 4)
    assert (code, out) == (0, ",".join(map(str, [3, 4, *new])) + "\n")


@pytest.mark.parametrize("logprobs", [False, True])
def test_output_json(trtc_: Trtc, engine: Path, tmp_path: Path, logprobs: bool) -> None:
    file = tmp_path / "out.json"
    options = ["--stop", " The", "--output-json", file, *(["--logprobs"] if logprobs else [])]
    trtc_("run", engine, "--prompt", "Hello, ", "--prompt-ids", "72", *options)
    got = json.loads(file.read_text())
    new = list(b"ello, " + "你好! The".encode())
    chances = [record.pop("logprobs") for record in got] if logprobs else []
    assert [len(chance) for chance in chances] == ([len(new) - 6, len(new)] if logprobs else [])
    assert got == [
        {
            "prompt": "Hello, ", "prompt_token_ids": list(b"Hello, "), "text": "你好!",
            "token_ids": new[6:], "finish_reason": "stop",
        },
        {"prompt": None, "prompt_token_ids": [72], "text": "ello, 你好!", "token_ids": new, "finish_reason": "stop"},
    ]   # fmt: skip
    assert sorted(p.name for p in tmp_path.iterdir()) == ["engine", "out.json"]


def test_sampling_options_arrive(trtc_: Trtc, engine: Path) -> None:
    options = ["--temperature", 50, "--top-k", 200, "--top-p", 0.9, "--repetition-penalty", 1.1, "--max-new-tokens", 30]
    first = trtc_("run", engine, "--prompt", "H", *options, "--seed", 1)
    assert trtc_("run", engine, "--prompt", "H", *options, "--seed", 1) == first
    assert trtc_("run", engine, "--prompt", "H", *options, "--seed", 2) != first
    (want,) = trtc.load(engine).generate(
        ["H"], max_new_tokens=30, temperature=50, top_k=200, top_p=0.9, repetition_penalty=1.1, seed=1
    )
    assert first[1] == "H" + want.text + "\n"


def test_chat_prints_the_answer(trtc_: Trtc, tmp_path: Path) -> None:
    template = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    files = {"tokenizer_config.json": json.dumps({"chat_template": template})}
    engine = write_script(tmp_path, "....Good day.", more_files=files)
    assert trtc_("run", engine, "--chat", "--prompt", "Hi", "--max-new-tokens", 9) == (0, "Good day.\n", "")
    trtc_("run", engine, "--chat", "--prompt", "Hi", "--output-json", tmp_path / "out.json", "--max-new-tokens", 4)
    (got,) = json.loads((tmp_path / "out.json").read_text())
    assert (got["prompt"], got["prompt_token_ids"], got["text"]) == ("Hi", list(b"[Hi]"), "Good")


def test_verbose_says_how_fast(trtc_: Trtc, engine: Path) -> None:
    for arguments in (["run", engine, "--verbose"], ["-v", "run", engine]):
        _, out, err = trtc_(*arguments, "--prompt", "Hello", "--max-new-tokens", 5)
        assert out == STORY[:8] + "\n"
        measured = re.sub(r"[\d.]+ (ms|s;|tokens/s)", r"N \1", err)
        assert measured == "first token after N ms; 5 tokens in N s; N tokens/s after the first\n"
    _, _, err = trtc_("run", engine, "--log-json", "--prompt", "Hello", "--max-new-tokens", 5)
    record = json.loads(err)
    assert record["tokens"] == 5 and 0 < record["first_token_seconds"] < record["seconds"]
    assert record["decode_tokens_per_second"] == pytest.approx(4 / (record["seconds"] - record["first_token_seconds"]))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "error: there is no prompt, but one of --prompt, --prompt-ids and --input-file must give one"),
        (["--input-file", "."], "error: --input-file is ., but there is no such file"),
        (["--prompt", "x", "--output-json", "."], "error: --output-json is ., but must be a file"),
        (["--prompt-ids", "1;2"], "error: --prompt-ids is '1;2', but must be integers with commas between them"),
        (["--prompt-ids", ""], "error: the prompt is empty, but the model needs at least one token to begin with"),
        (["--prompt-ids", "300"], "error: the prompt has token 300, but the model's vocabulary is 0..257"),
        (["--input-file", "none"], "error: --input-file is none, but there is no such file"),
        (["--prompt", "H", "--top-p", "2"], "error: top_p is 2.0, but must be above 0 and at most 1 (off)"),
        (["--prompt", "H", "--threads", "0"], "error: threads is 0, but must be at least 1"),
        (["--prompt", "H", "--device", "-1"], "error: device is -1, but must be at least 0"),
        (["--prompt", "H", "--prefill-chunk", "-1"], "error: prefill_chunk is -1, but must be at least 0"),
        (["--prompt", "H", "--kv-cache-tokens", "-1"], "error: kv_cache_tokens is -1, but must be at least 0"),
        (["--prompt", "H", "--chat"], "error: messages need a chat template, but ENGINE has none"),
        (["--prompt", "H", "--output-json", "a/b"], "error: --output-json is a/b, but a is not a folder"),
    ],
)
def test_mistakes_exit_with_2(trtc_: Trtc, engine: Path, arguments: list[str], text: str) -> None:
    code, out, err = trtc_("run", engine, *arguments)
    assert (code, out, err.replace(str(engine), "ENGINE")) == (2, "", text + "\n")


def test_mistakes_in_json(trtc_: Trtc, tmp_path: Path) -> None:
    code, _, err = trtc_("--log-json", "run", tmp_path, "--prompt", "x")
    assert code == 2
    assert json.loads(err) == {
        "event": "error",
        "message": f"{tmp_path} has no engine.json, but an engine has one",
        "notes": ["help: trtc compile MODEL_DIR -o ENGINE_DIR"],
    }


def test_usage_errors_exit_with_2(trtc_: Trtc) -> None:
    code, _, err = trtc_("rum")
    assert code == 2 and "No such command 'rum'. Did you mean 'run'?" in err
    assert trtc_("run", "x", "--nonsense")[0] == 2


def raising(error: BaseException) -> Callable[..., Any]:
    def load(*_: Any, **__: Any) -> Any:
        raise error

    return load


def test_interruption_is_one_line(trtc_: Trtc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trtc.runtime.generate, "load", raising(KeyboardInterrupt()))
    assert trtc_("run", "x", "--prompt", "y") == (130, "", "interrupted\n")


def test_a_full_disk_is_no_bug_of_ours(trtc_: Trtc, monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "out.json")
    monkeypatch.setattr(trtc.runtime.generate, "load", raising(full))
    assert trtc_("run", "x", "--prompt", "y") == (2, "", "error: out.json: no space left on device\n")


def test_a_bug_of_ours_shows_a_traceback_and_exits_with_1() -> None:
    code = (
        "import sys, trtc.cli, trtc.runtime.generate\n"
        "trtc.runtime.generate.load = lambda *a, **k: {}['ours']\n"
        "sys.argv = ['trtc', 'run', 'x', '--prompt', 'y']\n"
        "trtc.cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback") and done.stderr.endswith("KeyError: 'ours'\n")


def test_nothing_half_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.replace", raising(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        _shared.write_atomically(tmp_path / "out.json", "text")
    assert list(tmp_path.iterdir()) == []


def test_files_are_written_where_links_lead_and_into_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real")
    _shared.write_atomically(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "text"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit(pipe.read_text)
        _shared.write_atomically(pipe, "text")
        assert read.result(9) == "text"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "pipe", "real"] and pipe.is_fifo()


def test_no_file_can_be_written_there(trtc_: Trtc, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place, text in {
        tmp_path: f"{tmp_path} is a folder, but must be a file",
        tmp_path / "no" / "x": f"{tmp_path / 'no' / 'x'} cannot be written: {tmp_path / 'no'} is not a folder",
        tmp_path / "file" / "x": f"{tmp_path / 'file' / 'x'} cannot be written: {tmp_path / 'file'} is not a folder",
    }.items():
        assert trtc_("dump", MODEL, "-o", place) == (2, "", f"error: {text}\n")
    long = tmp_path / ("x" * 300)
    assert trtc_("dump", MODEL, "-o", long) == (2, "", f"error: {long} cannot be written: file name too long\n")


def test_help_lists_every_command_with_its_line(trtc_: Trtc) -> None:
    code, out, _ = trtc_("--help")
    assert code == 0
    listed = dict(re.findall(r"^  ([a-z]+)  +(\S.*)$", out.partition("Commands:")[2], re.MULTILINE))
    files = {f.stem for f in Path(trtc.cli.__file__).parent.glob("[!_]*.py")}
    assert listed.keys() == files
    assert listed["run"] == "Generate text with an engine."
    assert trtc_("--version") == (0, f"trtc {trtc.__version__}\n", "")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, trtc.cli\n"
        "sys.argv = ['trtc', '--help']\n"
        "try: trtc.cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = 'numpy onnx onnxruntime tokenizers sentencepiece jsonschema jinja2 safetensors torch tensorrt_rtx'\n"
        "print([m for m in heavy.split() if m in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stderr == "[]\n"


def test_progress_is_silent_off_a_terminal_and_json_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with _shared.progress() as report:
        report("materialize", 1, 2)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(_shared.settings, "log_json", True)
    with _shared.progress() as report:
        for done in range(1, 101):
            report("materialize", done, 100)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert lines[0] == {"event": "progress", "phase": "materialize", "done": 1, "total": 100}
    assert lines[-1] == {"event": "progress", "phase": "materialize", "done": 100, "total": 100}
    assert len(lines) == 2   # one a second, and the last
