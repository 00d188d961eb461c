"""Flax's files: the same model as in Hugging Face's form, in one file of msgpack or several, large arrays in chunks.

``serialize`` writes what flax.serialization does, with the msgpack package.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import models
import numpy as np
import pytest
from fuzz import cases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import LIMITS, Case
from sources import damaged, same_weights

import trtc
from trtc.errors import TrtcError
from trtc.frontend import Limits, open_checkpoint
from trtc.frontend.sources.flax import FlaxSource
from trtc.ir.types import bf16, f32

msgpack: Any = import_module("msgpack")
load_file: Any = import_module("safetensors.torch").load_file
LARGE = 1 << 30   # bytes above which Flax writes an array in chunks

CASES = (
    Case("flax", {"num_key_value_heads": 2, "attention_bias": True}),
    Case("flax-tied-bf16", {"tie_word_embeddings": True}, dtype="bfloat16"),
    Case("flax-gpt2", {"tie_word_embeddings": True}, model="GPT2", head="LMHeadModel"),
    Case("flax-layer-norms", {"num_key_value_heads": 1, "sliding_window": 5}, dtype="float16", model="Starcoder2"),
)
every_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


def packed(value: Any) -> Any:
    """What is no plain value, as an extension: arrays, their scalars, complex numbers."""
    if hasattr(value, "dtype"):
        whole: Any = np.asarray(value)
        content = msgpack.packb((whole.shape, whole.dtype.name, whole.tobytes("C")), use_bin_type=True)
        return msgpack.ExtType(1 if isinstance(value, np.ndarray) else 3, content)
    return msgpack.ExtType(2, msgpack.packb((value.real, value.imag)))


def chunked(tree: Any, limit: int) -> Any:
    """A tree in which large arrays are in chunks."""
    if isinstance(tree, dict):
        return {key: chunked(value, limit) for key, value in cast("dict[str, Any]", tree).items()}
    if type(tree) is not np.ndarray or tree.nbytes <= limit:
        return tree
    whole: Any = tree
    size = max(1, limit // whole.itemsize)
    chunks = {str(n): whole.reshape(-1)[at : at + size] for n, at in enumerate(range(0, whole.size, size))}
    shape = {str(n): s for n, s in enumerate(whole.shape)}
    return {"__msgpack_chunked_array__": True, "shape": shape, "chunks": chunks}


def serialize(tree: Any, limit: int = LARGE) -> bytes:
    return msgpack.packb(chunked(tree, limit), default=packed, strict_types=True)


def to_flax(key: str, tensor: Any, layer_norm: bool) -> tuple[str, Any]:
    """What transformers' converter makes of a torch tensor: its path in the tree, and the array."""
    *path, last = key.split(".")
    array = tensor.float().numpy().astype(np.dtype(str(tensor.dtype).removeprefix("torch.")))
    if last == "weight" and any(part in key for part in ("embed", "wte", "wpe")):
        last = "embedding"
    elif last == "weight" and array.ndim == 2:
        last, array = "kernel", array.T
    elif last == "weight" and layer_norm:
        last = "scale"
    return "/".join((*path, last)), array


def tree_of(tensors: dict[str, Any]) -> dict[str, Any]:
    """The nested dict that a Flax model keeps its parameters in."""
    norms = {key.replace("bias", "weight") for key in tensors if re.search(r"(norm|ln_.)\.bias$", key)}
    return nested(dict(to_flax(key, tensor, key in norms) for key, tensor in tensors.items()))


def nested(arrays: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, array in arrays.items():
        inner, path = tree, key.split("/")
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
        inner[path[-1]] = array
    return tree


def flattened(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        inner = isinstance(value, dict)
        found |= flattened(cast("Any", value), f"{prefix}{name}/") if inner else {f"{prefix}{name}": value}
    return found


def write_flax(case: Case, folder: Path, files: int = 1, chunk: int = 0) -> tuple[Path, Path]:
    """The model in both forms: Hugging Face's folder of torch, and of Flax.

    Args:
        chunk: bytes above which an array is written in chunks; Flax's own limit where 0.
    """
    hf, made = models.write(case, folder / "hf"), folder / "flax"
    made.mkdir()
    (made / "config.json").write_bytes((hf / "config.json").read_bytes())
    tree = tree_of(load_file(hf / "model.safetensors"))
    if files == 1:
        (made / "flax_model.msgpack").write_bytes(serialize(tree, chunk or LARGE))
        return hf, made
    homes: dict[str, str] = {}
    every = flattened(tree)
    for n in range(files):
        name, keys = f"flax_model-{n + 1:05}-of-{files:05}.msgpack", sorted(every)[n::files]
        (made / name).write_bytes(serialize(nested({key: every[key] for key in keys})))
        homes |= dict.fromkeys(keys, name)
    (made / "flax_model.msgpack.index.json").write_text(json.dumps({"metadata": {}, "weight_map": homes}))
    return hf, made


@pytest.mark.parametrize(("files", "chunk"), [(1, 0), (3, 0), (1, 1000)])
@every_case
def test_weights_are_those_of_the_hugging_face_form(case: Case, files: int, chunk: int, tmp_path: Path) -> None:
    hf, made = (open_checkpoint(folder) for folder in write_flax(case, tmp_path, files, chunk))
    assert made.format == "jax" and made.dtype == hf.dtype == case.dtype
    assert made.config == hf.config and made.generation == hf.generation
    same_weights(hf, made)
    assert isinstance(made.source, FlaxSource) and bool(made.source.pieces) is bool(chunk)


def test_arrays_are_those_of_flax(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    base = random.normal(size=(4, 6)).astype(np.float32)
    tree: dict[str, Any] = {
        "a": {"f32": base, "f16": base.astype(np.float16), "bf16": base.astype(bf16.numpy), "scalar": base[0, 0]},
        "i8": np.arange(5, dtype=np.int8), "flags": base > 0, "empty": np.zeros((0, 3), np.float32), "turned": base.T,
        "large": base.repeat(9, 0), "step": 3, "note": "text", "none": None, "negative": -5, "float": 1.5,
        "long": 1 << 40, "raw": b"1234", "complex": 1j, "list": [1, [2, "x"]], "yes": True,
    }   # fmt: skip
    (tmp_path / "a.msgpack").write_bytes(serialize(tree, 500))
    source, restored = FlaxSource(tmp_path, ["a.msgpack"]), flattened(tree)
    assert source.pieces["large"].shape == (36, 6) and len(source.pieces["large"].keys) == 2
    joint = np.concatenate([source[key] for key in source.pieces["large"].keys]).reshape(36, 6)
    np.testing.assert_array_equal(joint, restored["large"])
    own = set(source) - set(source.pieces["large"].keys)
    assert own == {"a/f32", "a/f16", "a/bf16", "i8", "flags", "empty", "turned"}
    for key in own:
        np.testing.assert_array_equal(source[key], restored[key])
        assert source.type(key).dtype.numpy == restored[key].dtype and not source[key].flags.owndata


def test_an_engine_gives_the_logits_of_transformers(tmp_path: Path) -> None:
    case = CASES[0]
    hf, made = write_flax(case, tmp_path)
    expected = np.stack(models.fresh_reference(hf, case, "float32"))
    bundle = trtc.compile(made, tmp_path / "engine", target="onnx", dtype="float32", **LIMITS)
    assert bundle.source.format == "jax"
    np.testing.assert_allclose(models.engine_logits(bundle, case), expected, rtol=0, atol=2e-4)   # orders of sums
    assert len(next(iter(trtc.load(bundle.path).generate([[3, 5]], max_new_tokens=4))).token_ids) == 4


def test_files_of_torch_come_first(tmp_path: Path) -> None:
    hf, made = write_flax(CASES[0], tmp_path)
    (made / "model.safetensors").write_bytes((hf / "model.safetensors").read_bytes())
    assert open_checkpoint(made).format == "huggingface"


def error_of(folder: Path) -> str:
    with pytest.raises(TrtcError) as error:
        open_checkpoint(folder).graph(Limits(2, 8, 16), f32)
    return str(error.value).replace(str(folder), "FLAX").removeprefix("error: ")


def test_arrays_that_are_missing_or_of_another_shape(tmp_path: Path) -> None:
    _, made = write_flax(CASES[0], tmp_path, chunk=1000)
    config = json.loads((made / "config.json").read_text())
    (made / "config.json").write_text(json.dumps({**config, "intermediate_size": 47}))
    assert error_of(made) == (
        "tensor model/layers/0/mlp/gate_proj/kernel is f32[32, 48], but the config asks for f32[32, 47]\n"
        "  = help: the tensors and the config are of different models"
    )
    (made / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    assert error_of(made) == (
        "tensor model/layers/2/input_layernorm/scale is missing from flax_model.msgpack\n"
        "  = help: did you mean `model/layers/1/input_layernorm/weight`?"
    )
    (made / "flax_model.msgpack").rename(made / "flax_model.msgpack.kept")
    assert error_of(made) == "FLAX holds no flax_model*.msgpack\n  = help: fetch the weights, too"


def array(shape: bytes = b"\x91\x02", dtype: bytes = b"\xa7float32", data: bytes = b"\xc4\x08" + bytes(8)) -> bytes:
    """{"x": an array} in pieces that can be replaced."""
    content = b"\x93" + shape + dtype + data
    return b"\x81\xa1x\xc7" + bytes([len(content)]) + b"\x01" + content


NOT = "a.msgpack cannot be read as a file of Flax: "
AGAIN = "\n  = help: the file is cut short or is no checkpoint; fetch it again"
HOSTILE: list[tuple[bytes, str]] = [
    (b"", f"{NOT}cannot mmap an empty file"),
    (b"\xc1", f"{NOT}there is no value that begins with 0xc1"),
    (b"\x80\x80", f"{NOT}it has 1 bytes more than its value"),
    (b"\x81\xa1x", f"{NOT}1 bytes are missing at byte 3"),
    (b"\xdf\xff\xff\xff\xff\xa1x\x01", f"{NOT}1 bytes are missing at byte 8"),
    (b"\xdd\xff\xff\xff\xff" + b"\xc0" * (1 << 18), (
        f"{NOT}it has more than 131072 values, or more than 64 in one another"
    )),
    (b"\x91" * 100_000, f"{NOT}it has more than 131072 values, or more than 64 in one another"),
    (b"\x81\x01\x01", f"{NOT}the keys of a map must be texts, each there once"),
    (b"\x82\xa1x\x01\xa1x\x01", f"{NOT}the keys of a map must be texts, each there once"),
    (b"\x81\xdb\0\1\0\0" + b"x" * 65536 + b"\xc0", f"{NOT}a text has 65536 bytes, but must have at most 4096"),
    (b"\x81\xdb\xff\xff\xff\xff", f"{NOT}a text has 4294967295 bytes, but must have at most 4096"),
    (b"\x81\xa1\xff\x01", f"{NOT}'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
    (b"\x81\xa1x\xc9\xff\xff\xff\xff\x01", f"{NOT}4294967295 bytes are missing at byte 9"),
    (array(shape=b"\x91\x03"), f"{NOT}an array of 8 bytes is float32[3]"),
    (array(shape=b"\x92\x00\x03"), f"{NOT}an array of 8 bytes is float32[0, 3]"),
    (array(shape=b"\x91\xcf" + b"\xff" * 8), f"{NOT}sizes must be whole numbers that a file can have"),
    (array(shape=b"\x91\xff"), f"{NOT}sizes must be whole numbers that a file can have"),
    (array(shape=b"\xdc\0\x41" + b"\1" * 65), f"{NOT}sizes must be whole numbers that a file can have"),
    (array(data=b"\x01"), f"{NOT}an array must be a shape, the name of an element type and bytes"),
    (array(dtype=b"\x01"), f"{NOT}an array must be a shape, the name of an element type and bytes"),
    (b"\x81\xa1x\xd6\x01\x93\x90\xa1y", f"{NOT}1 bytes are missing at byte 9"),
]   # fmt: skip


@pytest.mark.parametrize(("content", "message"), HOSTILE)
def test_files_that_flax_does_not_write(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.msgpack").write_bytes(content)
    with pytest.raises(TrtcError) as error:
        FlaxSource(tmp_path, ["a.msgpack"])
    assert str(error.value) == f"error: {message}{AGAIN}"


CHUNKS: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda d: d["shape"].update({"0": 7}), f"{NOT}array x has 6 elements, but its shape (7,)"),
    (lambda d: d["chunks"].pop("0"), f"{NOT}'0'"),
    (lambda d: d["chunks"].clear(), f"{NOT}array x is in chunks that are no arrays of one axis and one element type"),
    (lambda d: d["chunks"].update({"1": np.ones(3, np.int8)}), (
        f"{NOT}array x is in chunks that are no arrays of one axis and one element type"
    )),
    (lambda d: d["chunks"].update({"1": 3}), (
        f"{NOT}array x is in chunks that are no arrays of one axis and one element type"
    )),
    (lambda d: d.pop("shape"), f"{NOT}'shape'"),
]   # fmt: skip


@pytest.mark.parametrize(("change", "message"), CHUNKS)
def test_chunks_that_do_not_fit(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    half = np.ones(3, np.float32)
    stored: dict[str, Any] = {"__msgpack_chunked_array__": True, "shape": {"0": 6}, "chunks": {"0": half, "1": half}}
    change(stored)
    (tmp_path / "a.msgpack").write_bytes(serialize({"x": stored}))
    with pytest.raises(TrtcError) as error:
        FlaxSource(tmp_path, ["a.msgpack"])
    assert str(error.value) == f"error: {message}{AGAIN}"


def test_pointers_and_element_types_of_no_weights(tmp_path: Path) -> None:
    (tmp_path / "a.msgpack").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(TrtcError) as error:
        FlaxSource(tmp_path, ["a.msgpack"])
    assert error.value.facts == ("help: this is a pointer of Git LFS; `git lfs pull` fetches the file",)
    (tmp_path / "a.msgpack").write_bytes(array(dtype=b"\xa7float64", shape=b"\x91\x01"))
    source = FlaxSource(tmp_path, ["a.msgpack"])
    with pytest.raises(TrtcError) as error:
        _ = source["x"]
    known = "float32, float16, bfloat16, float8_e4m3fn, int8, uint8, int32, int64, bool"
    assert str(error.value) == f"error: a.msgpack: tensor x is float64, but must be one of {known}"
    with pytest.raises(TrtcError) as error:
        FlaxSource(tmp_path, ["b.msgpack"])
    assert str(error.value) == f"error: {tmp_path}/b.msgpack cannot be read: No such file or directory"


quick = settings(max_examples=cases(500), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def harmless(file: Path) -> None:
    """Refused, or of arrays that lie within the file."""
    try:
        source = FlaxSource(file.parent, [file.name])
    except TrtcError:
        return
    for key, entry in source.entries.items():
        assert 0 <= entry.start <= entry.stop <= file.stat().st_size
        if entry.dtype in source.dtypes:
            assert source[key].nbytes == entry.stop - entry.start


@quick
@given(st.data())
def test_any_damage_is_refused_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    half = np.ones(3, np.float32)
    tree: dict[str, Any] = {
        "a": {"b": half, "c": np.ones((2, 3), np.float16)}, "n": 5,
        "x": {"__msgpack_chunked_array__": True, "shape": {"0": 6}, "chunks": {"0": half, "1": half}},
    }   # fmt: skip
    (tmp_path / "a.msgpack").write_bytes(damaged(serialize(tree), data))
    harmless(tmp_path / "a.msgpack")


@quick
@given(st.binary(max_size=60))
def test_any_bytes_are_refused_or_harmless(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.msgpack").write_bytes(b"\x81\xa1x" + content)
    harmless(tmp_path / "a.msgpack")
