"""The bundle writer: a folder that is there whole, or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trtc.backend import bundle as module
from trtc.backend.bundle import BundleWriter, bundle, signature
from trtc.errors import TrtcError
from trtc.ir.graph import Graph
from trtc.ir.ops import Add, Input
from trtc.ir.types import Dim, f16, i32


def engine(folder: Path, text: str = "old") -> Path:
    """A bundle with one file."""
    with bundle(folder, 0) as writer:
        writer.add_text("a.txt", text)
        writer.finish({"x": text})
    return folder


def names(folder: Path) -> list[str]:
    return sorted(f.name for f in folder.iterdir())


def test_files_are_listed_with_their_bytes_and_hashes(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(b"{}" * 700_000)   # more than one block
    with bundle(tmp_path / "e" / "deep", 0) as writer:
        with writer.open("rank0/weights.bin") as file:
            assert file.write(b"abc") == 3 and file.write(memoryview(b"defg")) == 4 and file.bytes == 7
        writer.add("tokenizer.json", tmp_path / "tokenizer.json")
        (writer.folder / "plan").write_bytes(b"made by another")
        writer.add("plan")
        writer.add_text("graph.trtc", "ü")
        writer.finish({"pipeline": "cse"})
    out = tmp_path / "e" / "deep"
    document = json.loads((out / "engine.json").read_text())
    assert [document["format"], document["version"], document["pipeline"]] == ["trtc-engine", 1, "cse"]
    assert sorted(document["files"]) == ["graph.trtc", "plan", "rank0/weights.bin", "tokenizer.json"]
    for name, entry in document["files"].items():
        content = (out / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    assert (out / "rank0/weights.bin").read_bytes() == b"abcdefg"
    assert names(tmp_path / "e") == ["deep"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, TrtcError])
def test_nothing_stays_where_it_fails(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), bundle(tmp_path / "engine", 0) as writer:
        writer.add_text("a.txt", "new")
        raise error("x")
    assert names(tmp_path) == []


def test_the_old_engine_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    out = engine(tmp_path / "engine")
    with pytest.raises(ValueError, match="x"), bundle(out, 0) as writer:
        writer.add_text("b.txt", "new")
        raise ValueError("x")
    assert names(tmp_path) == ["engine"] and names(out) == ["a.txt", "engine.json"]
    with bundle(out, 0) as writer:
        writer.add_text("b.txt", "new")
        assert names(out) == ["a.txt", "engine.json"]
        writer.finish({})
    assert names(tmp_path) == ["engine"] and names(out) == ["b.txt", "engine.json"]


def test_the_old_engine_comes_back_where_the_new_one_cannot_be_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = engine(tmp_path / "engine")
    move: Callable[..., None] = os.replace

    def failing(source: Any, target: Any) -> None:
        if not str(source).endswith(".old") and Path(target) == out:
            raise PermissionError(errno.EACCES, "Permission denied")
        move(source, target)

    monkeypatch.setattr(module.os, "replace", failing)
    with pytest.raises(PermissionError), bundle(out, 0) as writer:
        writer.finish({})
    assert names(tmp_path) == ["engine"] and names(out) == ["a.txt", "engine.json"]


def test_another_call_puts_its_bundle_there_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, move = engine(tmp_path / "e"), os.replace
    others = [engine(tmp_path / "other", "other"), out]

    def meanwhile(source: Path, place: Path) -> None:
        if place == out and others:
            move(others.pop(0), others.pop())
        move(source, place)

    monkeypatch.setattr(module.os, "replace", meanwhile)
    engine(out, "new")
    assert (out / "a.txt").read_text() == "new" and names(tmp_path) == ["e"] and not others


def test_a_link_to_an_engine_stays_a_link(tmp_path: Path) -> None:
    out = engine(tmp_path / "engine")
    (tmp_path / "latest").symlink_to(out)
    engine(tmp_path / "latest", "new")
    assert (tmp_path / "latest").is_symlink() and (out / "a.txt").read_text() == "new"
    assert names(tmp_path) == ["engine", "latest"]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    assert names(engine(tmp_path / "engine")) == ["a.txt", "engine.json"]


@pytest.mark.parametrize("file", ["notes.txt", "engine.json"])
def test_what_is_no_engine_is_left_alone(tmp_path: Path, file: str) -> None:
    out = tmp_path / "precious"
    out.mkdir()
    (out / file).write_text('{"format": "of another program"}')
    with pytest.raises(TrtcError) as error:
        engine(out)
    message = f"error: {out} exists and is no engine\n  = help: remove it, or give another folder to -o"
    assert str(error.value) == message and names(out) == [file]
    with pytest.raises(TrtcError) as error:
        engine(out / file)
    assert str(error.value) == message.replace(str(out), str(out / file))


def left(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """Make every disk one that has this many bytes left."""

    def usage(path: object) -> Any:
        return SimpleNamespace(total=1 << 40, used=(1 << 40) - free, free=free)

    monkeypatch.setattr(module.shutil, "disk_usage", usage)


def test_too_little_space_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left(monkeypatch, 2_500_000)
    with pytest.raises(TrtcError) as error, bundle(tmp_path / "engine", 7_000_000_000):
        raise AssertionError("must not begin")
    note = "help: free some space, or give a folder on another disk to -o"
    assert str(error.value) == (
        f"error: {tmp_path}/engine needs 7,000.0 MB, but its disk has 2.5 MB free\n  = {note}"
    )
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    left(monkeypatch, 1_000_000)
    with pytest.raises(TrtcError) as error, bundle(tmp_path / "engine", 900_000) as writer:
        writer.add_text("a.txt", "new")
        raise OSError(number, os.strerror(number))
    note = "help: free some space, or give a folder on another disk to -o"
    assert str(error.value) == f"error: {tmp_path}/engine needs 0.9 MB, but its disk has 1.0 MB free\n  = {note}"
    assert names(tmp_path) == []


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(TrtcError) as error:
        engine(tmp_path / "file" / "engine")
    assert str(error.value) == f"error: {tmp_path}/file/engine cannot be written: {tmp_path}/file is no folder"


def test_the_signature_names_what_is_updated_in_place() -> None:
    cache, x = Input("cache", f16["B", 2]), Input("x", f16["B", 2])
    graph = Graph("g", (cache, x), {"y": Add(x, x), "cache": Add(cache, x)}, {"B": (1, 4)})
    assert signature(graph) == {
        "inputs": [
            {"name": "cache", "dtype": "f16", "shape": ["B", 2]},
            {"name": "x", "dtype": "f16", "shape": ["B", 2]},
        ],
        "outputs": [
            {"name": "y", "dtype": "f16", "shape": ["B", 2]},
            {"name": "cache.next", "dtype": "f16", "shape": ["B", 2], "alias": "cache"},
        ],
    }
    twice = Input("x", i32[Dim.named("B") * 2 + 1, 3])
    assert signature(Graph("g", (twice,), {}, {}))["inputs"][0]["shape"] == ["2*B + 1", 3]


def test_a_writer_makes_the_folders_it_needs(tmp_path: Path) -> None:
    BundleWriter(tmp_path).add_text("a/b/c.txt", "x")
    assert (tmp_path / "a/b/c.txt").read_text() == "x"
