"""What stays of a conversion that is stopped, and what cannot be converted."""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path
from typing import Any

import family_cases
import models
import pytest

import trtc
from trtc import work_folder
from trtc.errors import TrtcError
from trtc.frontend import SOURCES
from trtc.frontend.trtllm import writer

assert family_cases.FAMILY_CASES   # are among those that are known


def convert(source: Path, out: Path, **options: Any) -> dict[str, bytes]:
    """The files of a conversion."""
    trtc.convert(source, out, **options)
    return contents(out)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


class Stop(KeyboardInterrupt):
    """What a test stops a conversion with."""


def stopped(source: Path, out: Path, after: int, **options: Any) -> Path:
    """A conversion interrupted after so many bytes; what it left."""
    stops: list[int] = []

    def stop(phase: str, done: int, total: int) -> None:
        if done > after:
            time.sleep(0.2 if stops else 0)   # in which the main thread hears of the first
            stops.append(done)
            raise Stop

    with pytest.raises(Stop):
        trtc.convert(source, out, workers=1, progress=stop, **options)
    assert not out.exists()
    return out.with_name(f"{out.name}.partial")


def test_what_was_interrupted_is_gone_on_with(tmp_path: Path) -> None:
    source, out = models.checkpoint("gqa-tied-head16"), tmp_path / "ranks"
    whole = trtc.convert(source, tmp_path / "whole", tp_size=2)
    left = stopped(source, out, 100_000, tp_size=2)
    written: list[int] = []

    def count(phase: str, done: int, total: int) -> None:
        written.append(done)
        assert (phase, total) == ("weights", whole.bytes)

    done = trtc.convert(source, out, tp_size=2, resume=True, progress=count)
    assert contents(out) == contents(tmp_path / "whole") and not left.exists()
    assert 100_000 <= done.kept < done.bytes == whole.bytes == max(written)


def test_what_was_left_is_verified(tmp_path: Path) -> None:
    source, out = models.checkpoint("mha"), tmp_path / "ranks"
    whole = convert(source, tmp_path / "whole")
    left = stopped(source, out, 50_000)
    file = left / "rank0.safetensors"
    damaged = bytearray(file.read_bytes())
    damaged[40_000:40_010] = b"0123456789"
    file.write_bytes(damaged)
    (left / "rank1.safetensors").write_bytes(b"of another try, to two ranks")
    assert trtc.convert(source, out, resume=True).kept > 0
    assert contents(out) == whole


def test_another_try_begins_anew(tmp_path: Path) -> None:
    source, out = models.checkpoint("mha"), tmp_path / "ranks"
    stopped(source, out, 50_000)
    assert trtc.convert(source, out, tp_size=2).kept == 0
    assert contents(out) == convert(source, tmp_path / "whole", tp_size=2)
    (tmp_path / "ranks.partial").mkdir()
    (tmp_path / "ranks.partial/thesis.txt").write_text("x")
    assert error_of(source, out) == (
        f"{out}.partial exists, but the checkpoint is to be written there first\n  = help: remove or rename it"
    )


def test_two_calls_at_once(tmp_path: Path) -> None:
    source, out = models.checkpoint("mha"), tmp_path / "ranks"
    said: list[str] = []

    def again(phase: str, done: int, total: int) -> None:
        if not said:
            said.extend(error_of(source, out, tp_size=2, resume=resume) for resume in (False, True))

    trtc.convert(source, out, progress=again)
    note = "help: wait for it, or give another folder to -o"
    assert said == [f"{out} is being written by another call\n  = {note}"] * 2
    assert contents(out) == convert(source, tmp_path / "alone")


def test_where_a_link_leads(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    source = models.checkpoint("mha")
    assert convert(source, tmp_path / "link") == convert(source, tmp_path / "alone") == contents(tmp_path / "disk")
    assert (tmp_path / "link").is_symlink()


def error_of(model: Path, out: Path, **options: Any) -> str:
    with pytest.raises(TrtcError) as error:
        trtc.convert(model, out, **options)
    return str(error.value).removeprefix("error: ")


def test_a_checkpoint_is_replaced_when_the_new_one_is_whole(tmp_path: Path) -> None:
    source, out = models.checkpoint("mha"), tmp_path / "ranks"
    before = convert(source, out, tp_size=4)
    folder = models.write(models.CASES["mha"], tmp_path / "model")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1])
    assert "model.safetensors has " in error_of(folder, out)
    assert contents(out) == before and sorted(f.name for f in tmp_path.iterdir()) == ["model", "ranks"]
    assert convert(out, out, tp_size=2) == convert(source, tmp_path / "direct", tp_size=2)   # over itself
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter1.txt").write_text("x")
    assert error_of(source, tmp_path / "thesis") == (
        f"{tmp_path}/thesis exists and is no checkpoint of this format\n"
        "  = help: remove it, or give another folder to -o"
    )


def test_the_disk_is_looked_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = models.checkpoint("mha")
    free = shutil.disk_usage(tmp_path)._replace(free=1000)

    def usage(_: Path) -> object:
        return free

    monkeypatch.setattr(work_folder.shutil, "disk_usage", usage)
    assert error_of(source, tmp_path / "ranks") == (
        f"{tmp_path}/ranks needs 0.1 MB, but its disk has 0.0 MB free\n"
        "  = help: free some space, or give a folder on another disk to -o"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("home", "name", "dtype", "after"),
    [(os, "copy_file_range", "", 5), (writer, "write_all", "float16", 5), (os, "fsync", "", 1)],
)
def test_a_disk_that_fills_up_can_be_gone_on_from(
    home: Any, name: str, dtype: str, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = models.checkpoint("mha"), tmp_path / "ranks"
    write, left = getattr(home, name), [after]

    def full(*arguments: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*arguments)

    monkeypatch.setattr(home, name, full)
    note = "help: free some space and go on with --resume, or remove ranks.partial"
    assert error_of(source, out, dtype=dtype) == f"{out}: its disk is full\n  = {note}"
    assert trtc.convert(source, out, resume=True, dtype=dtype).kept > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tp_size": 0}, "tp_size is 0, but must be at least 1"),
        ({"workers": 0}, "workers is 0, but must be at least 1"),
        ({"pp_size": -1}, "pp_size is -1, but must be at least 1"),
        ({"pp_size": 3}, "pp_size is 3, but must be at most the 2 layers of the model"),
        ({"tp_size": 3}, "num_attention_heads is 4, but must be a multiple of tp_size, 3"),
        ({"use_parallel_embedding": True, "embedding_sharding_dim": 2},
         "embedding_sharding_dim is 2, but must be 0 or 1"),
        ({"dtype": "float61"}, (
            "dtype is float61, but must be one of float32, float16, bfloat16\n  = help: did you mean `float16`?"
        )),
        ({"source": "huggingfac"}, (
            f"source is huggingfac, but must be one of {', '.join(SOURCES)}\n  = help: did you mean `huggingface`?"
        )),
    ],
)   # fmt: skip
def test_options_that_cannot_be(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert error_of(models.checkpoint("mha"), tmp_path / "ranks", **options) == message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "ranks", "message"),
    [
        ("yarn-mscale-sharded", 2,
         "transformer.layers.0.mlp.fc.weight is [51, 32], but its 51 must be a multiple of tp_size, 2"),
        ("qwen2", 3, "num_attention_heads is 4, but must be a multiple of tp_size, 3"),
    ],
)   # fmt: skip
def test_models_that_cannot_be_divided(name: str, ranks: int, message: str, tmp_path: Path) -> None:
    assert error_of(models.checkpoint(name), tmp_path / "ranks", tp_size=ranks) == message
