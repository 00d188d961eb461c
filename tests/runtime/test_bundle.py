"""Reading engine.json: what a bundle says, and every way it can be wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from handmade import Tiny

from trtc.errors import TrtcError
from trtc.runtime.bundle import EngineBundle, Limits, Target, Tensor


@pytest.fixture
def engine(tiny: Tiny, tmp_path: Path) -> Path:
    """A bundle that a test may damage."""
    return shutil.copytree(tiny.path, tmp_path / "engine")


ABSENT = object()


def edit(engine: Path, place: str, value: Any) -> None:
    """Put ``value`` at ``place`` (dotted) of engine.json."""
    spec: Any = json.loads((engine / "engine.json").read_text())
    *path, last = [int(key) if key.isdigit() else key for key in place.split(".")]
    inner = spec
    for key in path:
        inner = inner[key]
    if value is ABSENT:
        del inner[last]
    else:
        inner[last] = value
    (engine / "engine.json").write_text(json.dumps(spec))


def refusal(engine: Path, verify: bool = True) -> str:
    with pytest.raises(TrtcError) as error:
        EngineBundle.open(engine, verify)
    return str(error.value).replace(str(engine), "ENGINE")


def test_a_bundle_is_what_its_json_says(engine: Path) -> None:
    bundle = EngineBundle.open(engine)
    spec = json.loads((engine / "engine.json").read_text())
    assert (bundle.path, bundle.target, bundle.limits) == (engine, Target("onnx", "1.0"), Limits(4, 16, 48))
    assert bundle.bounds == {"B": (1, 4), "S": (1, 16), "M": (1, 48)}
    assert bundle.ranks[0].inputs[3] == Tensor("layers.0.key_cache", "f32", ("B", 2, "M", 8))
    assert bundle.ranks[0].outputs[1].alias == "layers.0.key_cache"
    assert {name: vars(entry) for name, entry in bundle.files.items()} == spec["files"]


def test_no_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none").replace(str(tmp_path), "") == (
        "error: ENGINE is not a folder, but an engine is one\n  = help: trtc compile MODEL_DIR -o ENGINE_DIR"
    )


def test_no_engine_json(tmp_path: Path) -> None:
    assert refusal(tmp_path) == (
        "error: ENGINE has no engine.json, but an engine has one\n  = help: trtc compile MODEL_DIR -o ENGINE_DIR"
    )


def test_not_json(engine: Path) -> None:
    (engine / "engine.json").write_text('{"format": "trtc-engine",\n "version" 1}')
    assert refusal(engine) == "error: ENGINE/engine.json stops being JSON at line 2 column 12, but must be JSON"
    (engine / "engine.json").write_bytes(b"\xff{}")
    assert refusal(engine) == "error: ENGINE/engine.json is not UTF-8, but must be JSON"


def test_a_newer_format_is_refused_before_anything_else(engine: Path) -> None:
    (engine / "engine.json").write_text('{"version": 2, "magic": true}')
    assert refusal(engine) == (
        "error: ENGINE/engine.json is format version 2, but this trtc reads up to 1\n"
        "  = help: upgrade trtc, or compile the engine again with this one"
    )


@pytest.mark.parametrize(
    ("place", "value", "text"),
    [
        ("format", "x", "$.format: 'trtc-engine' was expected"),
        ("limits", ABSENT, "$: 'limits' is a required property"),
        ("limits.max_seq_len", "512", "$.limits.max_seq_len: '512' is not of type 'integer'"),
        ("limits.max_batch_size", 0, "$.limits.max_batch_size: 0 is less than the minimum of 1"),
        ("dtype", "f32", "$.dtype: 'f32' is not one of ['float32', 'float16', 'bfloat16']"),
        ("bounds.B", [1], "$.bounds.B: [1] is too short"),
        ("ranks", [], "$.ranks: [] should be non-empty"),
        ("ranks.0.plugin", 1, "$.ranks[0]: Additional properties are not allowed ('plugin' was unexpected)"),
    ],
)
def test_the_schema(engine: Path, place: str, value: Any, text: str) -> None:
    edit(engine, place, value)
    assert refusal(engine) == f"error: ENGINE/engine.json breaks its schema at {text}"


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b", "a\\b", ""])
def test_files_lie_in_the_bundle(engine: Path, name: str) -> None:
    edit(engine, "files", {name: {"sha256": "0" * 64, "bytes": 1}})
    assert refusal(engine).startswith("error: ENGINE/engine.json breaks its schema at $.files: ")


@pytest.mark.parametrize(
    ("place", "value", "text"),
    [
        ("inputs.1.name", "lengths", "rank 0 has no input input_lengths or query_starts, but every engine has one"),
        ("outputs.0.name", "y", "rank 0 has no output logits, but every engine has one"),
        (
            "outputs.1.dtype", "f16",
            "output layers.0.key_cache.next is an alias of layers.0.key_cache, "
            "but there is no such input of its dtype and shape",
        ),
        (
            "outputs.2.alias", "cache",
            "output layers.0.value_cache.next is an alias of cache, but there is no such input of its dtype and shape",
        ),
        ("engine", "rank0/a", "the engine of rank 0 is rank0/a, but files does not list it"),
    ],
)   # fmt: skip
def test_tensors_fit_together(engine: Path, place: str, value: Any, text: str) -> None:
    edit(engine, f"ranks.0.{place}", value)
    assert refusal(engine) == f"error: ENGINE/engine.json: {text}"


def test_pages_have_a_table(engine: Path) -> None:
    edit(engine, "cache.page", 64)
    said = "the cache of rank 0 has pages, but no input that says which"
    assert refusal(engine) == f"error: ENGINE/engine.json: {said}"
    edit(engine, "cache.page", 48)
    assert refusal(engine) == "error: ENGINE/engine.json breaks its schema at $.cache.page: 48 is not one of [64, None]"


AGAIN = "\n  = help: the engine is damaged: copy it again, or compile it again"


def test_a_missing_file(engine: Path) -> None:
    (engine / "rank0/model.onnx").unlink()
    assert refusal(engine, verify=False) == (
        f"error: ENGINE/rank0/model.onnx is missing, but engine.json lists it{AGAIN}"
    )


def test_a_file_of_another_size(engine: Path) -> None:
    file = engine / "rank0/model.onnx"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-1])
    assert refusal(engine, verify=False) == (
        f"error: ENGINE/rank0/model.onnx has {size - 1} bytes, but engine.json says {size}{AGAIN}"
    )


def test_a_file_with_a_flipped_bit(engine: Path) -> None:
    file = engine / "rank0/model.onnx"
    content = bytearray(file.read_bytes())
    said = EngineBundle.open(engine).files["rank0/model.onnx"].sha256
    content[100] ^= 1
    file.write_bytes(content)
    shown = refusal(engine)
    actual = shown.partition("SHA-256 ")[2][:12]
    assert len(actual) == 12 and actual != said[:12]
    assert shown == (
        f"error: ENGINE/rank0/model.onnx has SHA-256 {actual}..., but engine.json says {said[:12]}...{AGAIN}"
    )
    EngineBundle.open(engine, verify=False)   # the hash is not looked at
