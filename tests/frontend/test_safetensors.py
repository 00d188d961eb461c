"""safetensors files: mapped without a copy, and never believed beyond their length."""

from __future__ import annotations

import json
import struct
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import ml_dtypes
import numpy as np
import pytest
from fuzz import cases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trtc.errors import TrtcError
from trtc.frontend import Limits, open_checkpoint
from trtc.frontend.sources.safetensors import SafetensorsSource, read_header
from trtc.ir.types import f32

numpy_io: Any = import_module("safetensors.numpy")
torch_io: Any = import_module("safetensors.torch")
torch: Any = import_module("torch")

AGAIN = "\n  = help: the file is cut short or is no safetensors file; fetch it again"


def source_of(file: Path) -> SafetensorsSource:
    return SafetensorsSource(file.parent, [file.name])


def error_of(file: Path) -> str:
    with pytest.raises(TrtcError) as error:
        read_header(file)
    return str(error.value).replace(str(file), "FILE").removeprefix("error: ")


def raw(file: Path, header: Any, data: bytes = b"") -> Path:
    """A file of this header: a JSON value, or bytes."""
    text: bytes = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return file


def test_tensors_are_those_of_the_reference_implementation(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays = {
        "f32": random.normal(size=(3, 5)).astype(np.float32), "f16": random.normal(size=7).astype(np.float16),
        "i8": random.integers(-9, 9, (2, 2, 2)).astype(np.int8), "u8": np.arange(5, dtype=np.uint8),
        "i32": np.arange(6, dtype=np.int32), "i64": np.arange(6, dtype=np.int64), "bool": np.array([True, False]),
        "scalar": np.array(3.5, np.float32), "empty": np.zeros((0, 4), np.float32),
        "last-empty": np.zeros(0, np.float16),
    }   # fmt: skip
    numpy_io.save_file(arrays, tmp_path / "a.safetensors", metadata={"format": "np"})
    source = source_of(tmp_path / "a.safetensors")
    assert source.keys() == numpy_io.load_file(tmp_path / "a.safetensors").keys()
    for key, array in numpy_io.load_file(tmp_path / "a.safetensors").items():
        assert (source[key].dtype, source[key].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(source[key], array)


def test_bf16_and_f8_are_those_of_torch(tmp_path: Path) -> None:
    values = torch.randn(4, 6)
    saved = {"bf16": values.bfloat16(), "f8": values.to(torch.float8_e4m3fn)}
    torch_io.save_file(saved, tmp_path / "a.safetensors")
    source = source_of(tmp_path / "a.safetensors")
    assert source["bf16"].dtype == ml_dtypes.bfloat16 and source["f8"].dtype == ml_dtypes.float8_e4m3fn
    for key, tensor in saved.items():
        np.testing.assert_array_equal(source[key].astype(np.float32), tensor.float().numpy())


def test_reading_maps_and_copies_nothing(tmp_path: Path) -> None:
    """Two views of one tensor are one memory; 64 MB are read and let go, and resident memory stays as it was."""
    big = np.ones((64, 1 << 18), np.float32)
    numpy_io.save_file({"big": big, "small": np.arange(4, dtype=np.float32)}, tmp_path / "a.safetensors")
    del big
    source = source_of(tmp_path / "a.safetensors")
    assert np.shares_memory(source["big"], source["big"]) and not source["big"].flags.writeable
    assert not np.shares_memory(source["big"], source["small"])
    statm = Path("/proc/self/statm")
    if not statm.is_file():
        pytest.skip("resident memory is read from /proc")

    def resident() -> int:
        return int(statm.read_text().split()[1]) * 4096

    view = source["big"]
    before = resident()
    assert float(view.sum()) == view.size
    read = resident()
    source.release("big")
    released = resident()
    assert read - before > 60 << 20 and released - before < 4 << 20
    assert float(view[-1].sum()) == view.shape[1]   # and comes back when it is read again


def test_a_cut_file(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    numpy_io.save_file({"x": np.ones(100, np.float32)}, file)
    whole = file.read_bytes()
    size = len(whole)
    file.write_bytes(whole[:-1])
    assert error_of(file) == f"a.safetensors has {size - 1} bytes, but tensor x ends at byte {size}{AGAIN}"
    header = struct.unpack("<Q", whole[:8])[0]
    file.write_bytes(whole[:20])
    assert error_of(file) == f"a.safetensors has 20 bytes, but its header alone asks for {header}{AGAIN}"
    file.write_bytes(whole[:5])
    assert error_of(file) == f"a.safetensors has 5 bytes, but a safetensors file has 8 at least{AGAIN}"
    file.write_bytes(b"")
    assert error_of(file) == f"a.safetensors has 0 bytes, but a safetensors file has 8 at least{AGAIN}"


def test_a_pointer_of_git_lfs(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    asked = struct.unpack("<Q", b"version ")[0]
    assert error_of(file) == (
        f"a.safetensors has 63 bytes, but its header alone asks for {asked}\n"
        "  = help: this is a pointer of Git LFS; `git lfs pull` fetches the file"
    )


def test_a_header_beyond_every_bound(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    with file.open("wb") as handle:
        handle.write(struct.pack("<Q", 200 << 20))
        handle.truncate(300 << 20)   # sparse
    assert error_of(file) == (
        f"a.safetensors has a header of 209715200 bytes, but must have one of at most 104857600{AGAIN}"
    )


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert error_of(tmp_path / "none") == "FILE cannot be read: No such file or directory"
    assert error_of(tmp_path) == "FILE cannot be read: Is a directory"


NOT = "a.safetensors has a header that is not that of a safetensors file: "
NUMBERS = "ValueError: shapes and offsets must be whole numbers that a file can have"


def entry(**changes: Any) -> dict[str, Any]:
    return {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"{", f"{NOT}JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ([1], f"{NOT}AttributeError: 'list' object has no attribute 'items'"),
        ({"x": 3}, f"{NOT}TypeError: 'int' object is not subscriptable"),
        ({"x": {"dtype": "F32", "shape": [2]}}, f"{NOT}KeyError: 'data_offsets'"),
        (entry(shape=[-1]), NOT + NUMBERS),
        (entry(shape=[1.5]), NOT + NUMBERS),
        (entry(shape=[True]), NOT + NUMBERS),
        (entry(shape=[0, 1 << 60]), NOT + NUMBERS),
        (entry(shape=[1] * 65), NOT + NUMBERS),
        (entry(data_offsets=[-8, 0]), NOT + NUMBERS),
    ],
)
def test_headers_that_are_none(tmp_path: Path, header: Any, message: str) -> None:
    assert error_of(raw(tmp_path / "a.safetensors", header, bytes(8))) == message + AGAIN


def test_offsets_that_do_not_fit(tmp_path: Path) -> None:
    file = raw(tmp_path / "a.safetensors", entry(data_offsets=[8, 0]), bytes(8))
    base = file.stat().st_size - 8
    want = f"a.safetensors: tensor x begins at byte {base + 8}, but ends at {base}{AGAIN}"
    assert error_of(file) == want
    file = raw(tmp_path / "a.safetensors", entry(data_offsets=[0, 4]), bytes(8))
    assert error_of(file) == "a.safetensors: tensor x has 4 bytes, but its shape and dtype ask for 8"


def test_a_missing_tensor_and_an_unknown_dtype(tmp_path: Path) -> None:
    source = source_of(raw(tmp_path / "a.safetensors", entry(dtype="F4"), bytes(8)))
    with pytest.raises(TrtcError) as error:
        _ = source["x"]
    known = "F32, F16, BF16, F8_E4M3, I8, U8, I32, I64, BOOL"
    assert str(error.value) == f"error: a.safetensors: tensor x is F4, but must be one of {known}"
    with pytest.raises(TrtcError) as error:
        _ = source["xx"]
    assert str(error.value) == "error: tensor xx is missing from a.safetensors\n  = help: did you mean `x`?"


@pytest.mark.parametrize("padding", range(4))
def test_data_that_is_not_aligned(tmp_path: Path, padding: int) -> None:
    header = json.dumps(entry()).encode() + b" " * padding
    source = source_of(raw(tmp_path / "a.safetensors", header, np.array([1.5, -2], np.float32).tobytes()))
    np.testing.assert_array_equal(source["x"] + 0, [1.5, -2])


quick = settings(max_examples=cases(200), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
values = st.recursive(scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3))
small = st.integers(-2, 40) | st.integers()


@quick
@given(
    st.dictionaries(
        st.sampled_from(["x", "y", "__metadata__"]) | st.text(max_size=3),
        values
        | st.fixed_dictionaries(
            {},
            optional={
                "dtype": st.sampled_from(["F32", "BF16", "I8", "F4"]) | values,
                "shape": st.lists(small, max_size=3) | values,
                "data_offsets": st.lists(small, min_size=2, max_size=2) | values,
            },
        ),
        max_size=3,
    ),
    st.integers(0, 40),
)
def test_any_header_is_read_or_refused(tmp_path: Path, header: Any, data: int) -> None:
    """Whatever it says, the tensors that are given lie within the file."""
    file = raw(tmp_path / "a.safetensors", header, bytes(data))
    try:
        source = source_of(file)
        arrays = [source[key] for key in source]
    except TrtcError:
        return
    assert all(array.nbytes <= data and not array.any() for array in arrays)


@quick
@given(st.data())
def test_any_damage_is_refused_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    """Bytes of a good file changed, cut off or put in."""
    file = tmp_path / "a.safetensors"
    numpy_io.save_file({"x": np.ones((2, 3), np.float32), "y": np.ones(4, np.int8)}, file)
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(["change", "cut", "insert"]))
        new = data.draw(st.binary(min_size=1, max_size=4))
        content[at : len(content) if kind == "cut" else at + (len(new) if kind == "change" else 0)] = new
    file.write_bytes(content)
    try:
        source = source_of(file)
        sizes = [source[key].nbytes for key in source]
    except TrtcError:
        return
    assert all(size <= len(content) for size in sizes)


@quick
@given(st.data())
def test_any_config_is_taken_or_refused(folder: Path, data: st.DataObject) -> None:
    """Some keys of a good config changed to anything."""
    config = cast("dict[str, Any]", json.loads((folder / "config.json").read_text()))
    good = dict(config)
    rope = st.fixed_dictionaries(
        {"rope_type": st.sampled_from(["linear", "dynamic", "llama3", "yarn"])},
        optional=dict.fromkeys(
            ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings", "beta_fast",
             "beta_slow", "mscale", "mscale_all_dim", "attention_factor", "truncate", "rope_theta"], scalars,
        ),
    )   # fmt: skip
    for _ in range(data.draw(st.integers(1, 2))):
        more = ["rope_theta", "head_dim", "hidden_act", "rms_norm_eps", "torch_dtype"]
        key = data.draw(st.sampled_from([*config, *more]))
        config[key] = data.draw(values | small)
    if data.draw(st.booleans()):
        config["rope_scaling"] = data.draw(rope | values)
    (folder / "config.json").write_text(json.dumps(config))
    try:
        checkpoint = open_checkpoint(folder)
        checkpoint.graph(Limits(2, 8, 32), f32).verify()
        assert checkpoint.dtype and checkpoint.generation
    except TrtcError:
        pass
    finally:
        (folder / "config.json").write_text(json.dumps(good))


@quick
@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,0eE-+.ntfa\\u ', max_size=40).map(str.encode))
def test_any_bytes_for_a_config(folder: Path, content: bytes) -> None:
    good = (folder / "config.json").read_bytes()
    (folder / "config.json").write_bytes(content)
    try:
        with pytest.raises(TrtcError):
            open_checkpoint(folder)
    finally:
        (folder / "config.json").write_bytes(good)
