"""``trtc compile``: engines, what is said of them, and every refusal in whole."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commandline import MODEL, WHAT_TO_GIVE, Trtc

import trtc.backend.backends
import trtc.backend.onnx.build
from trtc.ir import parse

ONNX = ("--target", "onnx")


def test_the_engine_continues_as_transformers_does(trtc_: Trtc, tmp_path: Path) -> None:
    code, out, err = trtc_("compile", MODEL, "-o", tmp_path / "engine", *ONNX)
    size = sum(f.stat().st_size for f in (tmp_path / "engine").rglob("*.*") if f.name != "engine.json")
    assert (code, out) == (0, "")
    said = rf"engine: {tmp_path}/engine, onnx:[\d.]+, {size:,} bytes, \d+\.\d s\n"
    assert re.fullmatch(said, err)
    golden = json.loads((MODEL / "GOLDEN.json").read_text())[0]   # by transformers
    options = ("--max-new-tokens", len(golden["greedy_new_ids"]), "--output-json", tmp_path / "out.json")
    assert trtc_("run", tmp_path / "engine", "--prompt", golden["prompt"], *options)[0] == 0
    assert json.loads((tmp_path / "out.json").read_text())[0]["token_ids"] == golden["greedy_new_ids"]


def test_options_arrive_in_the_engine(trtc_: Trtc, tmp_path: Path) -> None:
    limits = ("--max-batch-size", 2, "--max-input-len", 16, "--max-seq-len", 64)
    options = (*ONNX, *limits, "--dtype", "float32", "--all-logits", "--passes", "cse", "--threads", 1)
    assert trtc_("compile", MODEL, "-o", tmp_path / "engine", *options)[0] == 0
    got = json.loads((tmp_path / "engine" / "engine.json").read_text())
    assert got["limits"] == {"max_batch_size": 2, "max_input_len": 16, "max_seq_len": 64}
    assert got["bounds"] == {"B": [1, 2], "S": [1, 16], "M": [1, 64]}
    assert got["dtype"] == got["cache"]["dtype"].replace("f", "float") == "float32"
    assert got["pipeline"].startswith("cse,rewrite-plugins{target=onnx")
    assert {"name": "logits", "dtype": "f32", "shape": ["B", "S", 1024]} in got["ranks"][0]["outputs"]


def test_quiet_verbose_and_json(trtc_: Trtc, tmp_path: Path) -> None:
    arguments = ("compile", MODEL, "-o", tmp_path / "engine", *ONNX)
    assert trtc_(*arguments, "--quiet") == (0, "", "")
    _, _, err = trtc_(*arguments, "--verbose")
    assert re.match(r"pass 1: canonicalize, \d+\.\d\d s\npass 2: cse, ", err)
    _, _, err = trtc_(*arguments, "--log-json")
    records = [json.loads(line) for line in err.splitlines()]
    assert records[-1]["engine"] == str(tmp_path / "engine") and records[-1]["bytes"] > 2_800_000
    assert {"weights", "model"} <= {r["phase"] for r in records if r["event"] == "progress"}


def test_dump_ir_writes_one_file_a_pass(trtc_: Trtc, tmp_path: Path) -> None:
    assert trtc_("compile", MODEL, "-o", tmp_path / "engine", *ONNX, "--dump-ir", tmp_path / "ir")[0] == 0
    names = sorted(f.name for f in (tmp_path / "ir").iterdir())
    pipeline = json.loads((tmp_path / "engine" / "engine.json").read_text())["pipeline"]
    passes = [re.sub(r"{.*}", "", each) for each in pipeline.split(",")]
    assert names == ["00-import.trtc", *(f"{n:02}-{name}.trtc" for n, name in enumerate(passes, 1))]
    graphs = [parse((tmp_path / "ir" / name).read_text()) for name in names]
    assert graphs[-1] == parse((tmp_path / "engine" / "graph.trtc").read_text())
    assert graphs[0] != graphs[-1]


def test_dry_run_says_what_would_be_built(trtc_: Trtc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = trtc_("compile", MODEL, "--dry-run", *ONNX, "--passes", "cse", "--max-batch-size", 2)
    shown, estimate, inputs, outputs = re.sub(r"onnx:[\d.]+", "onnx:V", out).split("\n\n")
    assert (code, err, list(tmp_path.iterdir())) == (0, "", [])
    facts = dict(line.split(maxsplit=1) for line in estimate.splitlines()[1:3])
    assert facts == {"weights": "2.9 MB", "cache": "3.7 MB at most, 3,584 bytes a token"}
    assert inputs.startswith("inputs, B in 1..2, S in 1..512, M in 1..512\n  input_ids                  i32[B, S]\n")
    assert "updates layers.{0..6}.key_cache" in outputs
    assert re.sub(r"(?<=ops       )[\d,]+", "N", shown) == (
        "target    onnx:V\n"
        "model     LlamaForCausalLM, 1,423,232 parameters, float16\n"
        "limits    2 sequences, 512 new tokens a call, 512 tokens in all\n"
        "cache     f32, 7 layers, 2 heads of 32: 3,584 bytes a token, 3.7 MB at most\n"
        "pipeline  cse,rewrite-plugins{target=onnx:V},legalize{target=onnx:V},canonicalize,cse\n"
        "weights   2.9 MB\n"
        "ops       N"
    )


@pytest.mark.parametrize("target", ["tensorrt:8.6", "tensorrt:10.9", "tensorrt:11.4", "tensorrt-rtx:1.5"])
def test_dry_run_needs_no_tensorrt(target: str, trtc_: Trtc) -> None:
    options = ("--max-batch-size", 4, "--max-input-len", 64, "--max-seq-len", 128)
    code, out, err = trtc_("compile", MODEL, "--dry-run", "--target", target, *options, "--max-num-tokens", 128)
    assert (code, err) == (0, "")
    head, estimate, profiles, builder, inputs, _ = out.split("\n\n")
    assert head.startswith(f"target    {target}\n") and "to build" in estimate
    spans = [tuple(line.split()[1:3]) for line in profiles.splitlines()[2:]]
    assert spans == [("1..1..2", "1..32..64"), ("1..2..4", "1..16..32"), ("1..2..4", "1..1..1")]
    assert builder == "builder\n  max_num_tokens  128"
    assert inputs.startswith("inputs, B in 1..4, S in 1..64")


def test_a_paged_cache_is_one_of_target_cuda(trtc_: Trtc) -> None:
    code, out, err = trtc_("compile", MODEL, "--dry-run", "--paged-kv-cache", "--target", "cuda:90")
    assert (code, err) == (0, "") and "in pages of 64 tokens" in out and "i32[B, 8]" in out
    said = trtc_("compile", MODEL, "--dry-run", "--paged-kv-cache", *ONNX)
    message = "a paged KV cache is asked for, but target onnx has none"
    assert said == (2, "", f"error: {message}\n  = help: --target cuda\n")


def test_options_of_tensorrt_are_no_other_targets(trtc_: Trtc) -> None:
    said = trtc_("compile", MODEL, "--dry-run", *ONNX, "--refit", "--workspace", "1GB")
    message = "refit, workspace: target onnx has no such option, but tensorrt and tensorrt-rtx have"
    note = "help: --target tensorrt on a machine with a GPU, or --target tensorrt-rtx"
    assert said == (2, "", f"error: {message}\n  = {note}\n")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--workspace", "much"), "--workspace is much, but must be a size such as 4GB or 512MiB"),
        (("--version-compatible",), "version_compatible is asked for, but TensorRT-RTX has no version-comp"),
        (("--optimization-level", 9), "optimization_level is 9, but must be of 0, 1, 2, 3, 4, 5"),
        (("--max-num-tokens", 7), "max_num_tokens is 7, but must be at least max_batch_size, 8"),
    ],
)
def test_mistakes_in_options_of_tensorrt(options: tuple[object, ...], said: str, trtc_: Trtc) -> None:
    code, out, err = trtc_("compile", MODEL, "--dry-run", "--target", "tensorrt-rtx:1.7", *options)
    assert (code, out) == (2, "") and err.startswith(f"error: {said}")


WRONG = """
from trtc.ir import Value
from trtc.ir.ops import Add, Mul
from trtc.passes import rewrite

@rewrite("{name}")
def wrong(op: Mul) -> Value | None:
    return Add(op.a, op.b) if op.a.type == op.b.type else None
"""


def test_check_finds_a_pass_that_changes_the_meaning(trtc_: Trtc, tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(WRONG.format(name="wrong-in-compile"))
    arguments = ("compile", MODEL, "-o", tmp_path / "engine", *ONNX, "--load", tmp_path / "wrong.py", "--check")
    code, out, err = trtc_(*arguments, "--passes", "cse,wrong-in-compile")
    assert (code, out) == (2, "")
    assert re.match(r"error: wrong-in-compile: output \S+ differs by \S+, but must differ by \S+ at most\n", err)
    assert "in pass 2 of 6, `wrong-in-compile`" in err
    assert sorted(f.name for f in tmp_path.iterdir()) == ["wrong.py"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--target", "onx"], "error: unknown target `onx`\n  = help: did you mean `onnx`?"),
        (
            ["--target", "tensorrt:8.5"],
            "error: tensorrt:8.5 is not supported\n  = help: 8.6 is the oldest that is",
        ),
        (
            [*ONNX, "--passes", "fuse,fuse-attentoin"],
            "error: unknown pass `fuse-attentoin`\n --> <pipeline>:1:6\n  |\n1 | fuse,fuse-attentoin,LOWER\n"
            "  |      ^^^^^^^^^^^^^^\n  = help: did you mean `fuse-attention`?",
        ),
        (
            [*ONNX, "--passes", "fuse,,cse"],
            "error: expected a pass such as `cse` or `legalize{target=onnx}`\n --> <pipeline>:1:6\n  |\n"
            "1 | fuse,,cse,LOWER\n  |      ^",
        ),
        (
            [*ONNX, "--dtype", "float61"],
            "error: dtype is float61, but must be one of float32, float16, bfloat16\n  = help: did you mean `float16`?",
        ),
        (["--max-input-len", "600"], "error: max_input_len is 600, but must not exceed max_seq_len, 512"),
        (["--max-batch-size", "0"], "error: max_batch_size is 0, but must be at least 1"),
        (
            ["--load", "none.py"],
            "error: none.py is no Python file\n  = help: --load takes a file of passes, such as my_pass.py",
        ),
        (
            ["--load", "bad.py"],
            "error: bad.py cannot be loaded: NameError: name 'oops' is not defined\n  = at bad.py:2",
        ),
        (
            ["-o", "other"],
            "error: other exists and is no engine\n  = help: remove it, or give another folder to -o",
        ),
    ],
)
def test_mistakes_exit_with_2(
    trtc_: Trtc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], text: str
) -> None:
    (tmp_path / "bad.py").write_text("import os\noops\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter").touch()
    monkeypatch.chdir(tmp_path)
    code, out, err = trtc_("compile", MODEL, *([] if "-o" in arguments else ["-o", "engine"]), *arguments)
    assert (code, out, re.sub(r"lower{target=onnx:[\d.]+}", "LOWER", err)) == (2, "", text + "\n")
    assert sorted(f.name for f in tmp_path.rglob("*")) == ["bad.py", "letter", "other"]


def test_graphs_go_into_a_folder(trtc_: Trtc, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = trtc_("compile", MODEL, "--dry-run", *ONNX, "--dump-ir", tmp_path / "file")
    assert said == (2, "", f"error: {tmp_path / 'file'}: file exists\n")


def test_there_must_be_an_output(trtc_: Trtc) -> None:
    message = "error: there is no -o, but it must say where the engine goes\n  = help: -o ENGINE_DIR, or --dry-run\n"
    assert trtc_("compile", MODEL) == (2, "", message)


def test_a_model_that_is_not_there(trtc_: Trtc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = f"error: nowhere is no directory\n{WHAT_TO_GIVE}\n"
    assert trtc_("compile", "nowhere", "-o", "engine") == (2, "", message)


def test_an_unknown_architecture(trtc_: Trtc, tmp_path: Path) -> None:
    shutil.copytree(MODEL, tmp_path / "model")
    config = json.loads((MODEL / "config.json").read_text())
    for name, help_ in (
        ("LlamaForCausalML", "did you mean `LlamaForCausalLM`?"), ("RWKV", "`trtc models` lists what is known"),
    ):   # fmt: skip
        (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "architectures": [name]}))
        message = f"error: config.json: architecture {name} is unknown\n  = help: {help_}\n"
        assert trtc_("compile", tmp_path / "model", "-o", tmp_path / "engine") == (2, "", message)


def test_a_target_that_is_not_installed(trtc_: Trtc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> object:
        return None if name == "onnx" else find_spec(name)

    monkeypatch.setattr(trtc.backend.backends, "find_spec", find)
    message = "onnx is needed to build for target onnx, but is not installed\n  = help: pip install 'trtc[onnx]'\n"
    assert trtc_("compile", MODEL, "-o", tmp_path / "engine", *ONNX) == (2, "", f"error: {message}")
    message = "no target can be built and run here\n  = help: pip install 'trtc[onnx]'; `trtc doctor` says more\n"
    assert trtc_("compile", MODEL, "-o", tmp_path / "engine") == (2, "", f"error: {message}")


def test_no_space_left(trtc_: Trtc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def usage(_: Path) -> SimpleNamespace:
        return SimpleNamespace(free=10**6)

    monkeypatch.setattr("shutil.disk_usage", usage)
    monkeypatch.chdir(tmp_path)
    message = (
        "error: engine needs 2.9 MB, but its disk has 1.0 MB free\n"
        "  = help: free some space, or give a folder on another disk to -o\n"
    )
    assert trtc_("compile", MODEL, "-o", "engine", *ONNX) == (2, "", message)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_nothing_and_the_old_engine(
    trtc_: Trtc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "engine.json").write_text('{"format": "trtc-engine"}')

    def interrupted(_graph: object, _tensors: object, writer: Any, folder: str, **_: object) -> None:
        with writer.open(f"{folder}/weights.bin") as file:
            file.write(b"half of")
            raise KeyboardInterrupt

    monkeypatch.setattr(trtc.backend.onnx.build, "build", interrupted)
    for name in ("new", "old"):
        assert trtc_("compile", MODEL, "-o", tmp_path / name, *ONNX) == (130, "", "interrupted\n")
    assert [f.relative_to(tmp_path).as_posix() for f in sorted(tmp_path.rglob("*"))] == ["old", "old/engine.json"]


def test_a_plan_of_tensorrt_rtx_is_built_and_runs_on_a_gpu_only(trtc_: Trtc, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    engine = tmp_path / "engine"
    options = ("--target", "tensorrt-rtx", "--max-batch-size", 2, "--max-input-len", 8, "--max-seq-len", 16)
    code, out, err = trtc_("compile", MODEL, "-o", engine, *options)
    assert (code, out) == (0, "") and err.startswith(f"engine: {engine}, tensorrt-rtx:1.")
    _, out, _ = trtc_("inspect", engine)
    assert "\ninputs of rank0/model.plan, B in 1..2, S in 1..8\n" in out
    code, _, err = trtc_("run", engine, "--prompt", "x")
    assert code == 2 and err.startswith("error: this machine has no NVIDIA driver, but GPU engines need one\n")


def test_the_builder_says_what_memory_it_takes(trtc_: Trtc, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    limits = ("--target", "tensorrt-rtx", "--max-batch-size", 1, "--max-input-len", 8, "--max-seq-len", 16)
    code, out, err = trtc_("compile", MODEL, "-o", tmp_path / "engine", *limits, "--monitor-memory")
    *memory, last = err.splitlines()
    assert (code, out) == (0, "") and last.startswith("engine: ")
    assert memory and all(line.startswith("[MemUsage") for line in memory)
    assert any("Peak memory usage during Engine building" in line for line in memory)
    _, out, _ = trtc_("inspect", tmp_path / "engine")
    assert "\nbuilder   monitor_memory True\n" in out


@pytest.mark.parametrize("target", ["onnx", "tensorrt-rtx"])
def test_a_process_that_is_told_to_end_leaves_nothing(target: str, tmp_path: Path) -> None:
    pytest.importorskip({"onnx": "onnx", "tensorrt-rtx": "tensorrt_rtx_bindings"}[target])
    command = [sys.executable, "-m", "trtc", "compile", MODEL, "-o", tmp_path / "engine", "--target", target]
    environment = {**os.environ, "PYTHONPATH": str(MODEL.parents[1])}
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, env=environment)
    while not list(tmp_path.iterdir()) and process.poll() is None:   # until its folder under construction is there
        time.sleep(0.001)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "interrupted\n") and list(tmp_path.iterdir()) == []


def test_as_a_process(tmp_path: Path) -> None:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "trtc", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(MODEL.parents[1])}
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)

    done = run("compile", MODEL, "-o", "engine", *ONNX)
    assert (done.returncode, done.stdout) == (0, "") and done.stderr.startswith("engine: engine, onnx:")
    done = run("run", "engine", "--prompt", "ROMEO:", "--max-new-tokens", 3)
    assert done.returncode == 0 and done.stdout.startswith("ROMEO:")
    done = run("compile", MODEL, "-o", "engine", "--target", "onx")
    assert (done.returncode, done.stderr) == (2, "error: unknown target `onx`\n  = help: did you mean `onnx`?\n")
