"""Checkpoints that Flax and Orbax themselves made: the same model as in Hugging Face's form.

``data/jax.tar.gz`` holds a tiny LLaMA in bf16 as transformers writes it, as flax 0.12.8 does (in chunks of 100 bytes),
and as orbax-checkpoint 0.12.8 does: two steps of a manager, in a database; a folder an array; zarr 3.
"""

from __future__ import annotations

import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz import cases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sources import damaged, same_weights

import trtc
from trtc.errors import TrtcError
from trtc.frontend import Limits, open_checkpoint
from trtc.frontend.sources.orbax import OrbaxSource
from trtc.ir.types import f32

pytest.importorskip("tensorstore")


def unpacked(folder: Path) -> Path:
    with tarfile.open(Path(__file__).parent / "data/jax.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(tmp_path_factory.mktemp("jax"))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Folders that a test may damage."""
    return unpacked(tmp_path)


@pytest.mark.parametrize("form", ["msgpack", "manager", "plain", "zarr3"])
def test_weights_are_those_of_the_hugging_face_form(made: Path, form: str) -> None:
    """Of the manager's steps, the last is read; the first one's weights are zeros."""
    hf, jax = open_checkpoint(made / "hf"), open_checkpoint(made / form)
    assert jax.format == "jax" and jax.dtype == hf.dtype == "bfloat16" and jax.config == hf.config
    same_weights(hf, jax)


def test_engines_are_the_same(made: Path, tmp_path: Path) -> None:
    limits: dict[str, Any] = {"max_batch_size": 1, "max_input_len": 4, "max_seq_len": 16}
    tokens = [
        trtc.load(trtc.compile(made / form, tmp_path / form, target="onnx", **limits).path).generate(
            [[3, 5]], max_new_tokens=8
        )[0].token_ids
        for form in ("hf", "manager")
    ]   # fmt: skip
    assert tokens[0] == tokens[1] and len(tokens[0]) == 8


def error_of(folder: Path) -> str:
    with pytest.raises(TrtcError) as error:
        open_checkpoint(folder).graph(Limits(2, 8, 16), f32)
    return str(error.value).replace(str(folder), "ORBAX").removeprefix("error: ")


def rewrite(folder: Path, **changes: Any) -> None:
    file = folder / "model/_METADATA"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def leaf(*path: str) -> dict[str, Any]:
    return {"x": {"key_metadata": [{"key": p} for p in path], "value_metadata": {"value_type": "jax.Array"}}}


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (None, "_METADATA names no tree of arrays: 'NoneType' object has no attribute 'values'"),
        ({"x": 3}, "_METADATA names no tree of arrays: 'int' object is not subscriptable"),
        ({"x": {"key_metadata": []}}, "_METADATA names no tree of arrays: [] is the path of no array"),
        (leaf("a", "../../x"), '_METADATA names no tree of arrays: ["a", "../../x"] is the path of no array'),
        (leaf("..", ".."), '_METADATA names no tree of arrays: ["..", ".."] is the path of no array'),
    ],
)
def test_metadata_that_orbax_does_not_write(own: Path, tree: Any, message: str) -> None:
    rewrite(own / "plain", tree_metadata=tree)
    assert error_of(own / "plain") == message


def test_arrays_that_are_missing(own: Path) -> None:
    rewrite(own / "plain", tree_metadata=leaf("params", "x"))
    assert error_of(own / "plain").startswith("ORBAX/model: array params.x cannot be opened: NOT_FOUND: ")
    metadata = json.loads((own / "zarr3/model/_METADATA").read_text())["tree_metadata"]
    rewrite(own / "zarr3", tree_metadata={k: v for k, v in metadata.items() if "norm" not in k})
    assert error_of(own / "zarr3") == (
        "tensor params/params/model/layers/0/input_layernorm/scale is missing from _METADATA\n"
        "  = help: did you mean `params/params/model/layers/0/mlp/gate_proj/kernel`?"
    )


def test_arrays_larger_than_their_files_can_hold(own: Path) -> None:
    file = own / "plain/model/params.params.model.norm.weight/.zarray"
    file.write_text(json.dumps({**json.loads(file.read_text()), "shape": [1 << 40], "chunks": [1 << 20]}))
    have = sum(f.stat().st_size for f in (own / "plain/model").rglob("*") if f.is_file())
    stated = 2 * ((1 << 40) + 11 * 8 * 2 + 8 * 8 * 2 + 4 * 8 * 2 + 12 * 8 * 3 + 8 * 2)
    want = "must have at most 64 times as many"
    assert error_of(own / "plain") == f"ORBAX/model has {have} bytes, and its arrays {stated}, but {want}"


def test_tensorstore_is_named_where_it_is_missing(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    assert error_of(made / "plain") == (
        "tensorstore is needed to read Orbax's folders, but is not installed\n  = help: pip install 'trtc[jax]'"
    )


@settings(max_examples=cases(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_is_refused_or_harmless(own: Path, data: st.DataObject) -> None:
    files = sorted(f for form in ("plain", "zarr3") for f in (own / form / "model").rglob("*") if f.is_file())
    file = data.draw(st.sampled_from(files))
    kept = file.read_bytes()
    file.write_bytes(damaged(kept, data))
    try:
        source = OrbaxSource(own / file.relative_to(own).parts[0] / "model")
        for key in source:
            assert isinstance(source[key], np.ndarray)
    except TrtcError:
        pass
    finally:
        file.write_bytes(kept)
