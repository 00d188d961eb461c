"""Files of torch.save: torch.load's values without torch, and nothing that a hostile file asks for."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz import cases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sources import damaged

from trtc.errors import TrtcError
from trtc.frontend.sources.torch_zip import TorchSource, read_torch

torch: Any = import_module("torch")

SYSTEM: Any = vars(os)["system"]
AGAIN = "\n  = help: the file is cut short or is no checkpoint; fetch it again"
OLD = "\n  = help: before 1.6, torch wrote another format: load the file with torch and save it again"
SAFE = "\n  = help: such a pickle can run code; get the checkpoint as safetensors"
NOT = "a.pt cannot be read as a file of torch.save: "


def source_of(file: Path) -> TorchSource:
    return TorchSource(file.parent, [file.name])


def error_of(file: Path) -> str:
    with pytest.raises(TrtcError) as error:
        source_of(file)
    return str(error.value).replace(str(file), "FILE").removeprefix("error: ")


def archive(file: Path, pickled: bytes, members: dict[str, bytes] | None = None, **options: Any) -> Path:
    """A zip archive as torch.save writes it, of any pickle."""
    with zipfile.ZipFile(file, "w", **options) as made:
        for name, content in {"data.pkl": pickled, **(members or {})}.items():
            made.writestr(f"a/{name}", content)
    return file


def tensor_pickle(**changes: bytes) -> bytes:
    """A pickle of {"x": f32[2]} in a storage of one member, ``data/0``, in pieces that can be replaced."""
    parts = {
        "begin": b"\x80\x02}X\x01\0\0\0x", "function": b"ctorch._utils\n_rebuild_tensor_v2\n", "open": b"((",
        "storage": b"X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x02t", "persistent": b"Q",
        "offset": b"K\0", "shape": b"K\x02\x85", "strides": b"K\x01\x85", "rest": b"\x89ccollections\nOrderedDict\n)R",
        "call": b"tR", "end": b"s.",
    }   # fmt: skip
    return b"".join({**parts, **changes}.values())


DATA = {"data/0": np.array([1.5, -2], np.float32).tobytes()}


def test_tensors_are_those_of_torch_load(tmp_path: Path) -> None:
    base = torch.randn(6, 8)
    saved: dict[str, Any] = OrderedDict(
        f32=base, f16=base.half(), bf16=base.bfloat16(), transposed=base.t(), part=base[1:5:2, 3:], row=base[2],
        parameter=torch.nn.Linear(3, 2).weight, i8=torch.arange(5, dtype=torch.int8), u8=base[0].to(torch.uint8),
        i32=torch.arange(6, dtype=torch.int32), i64=torch.arange(6), flags=base > 0, scalar=torch.tensor(2.5),
        empty=torch.zeros(0, 4), permuted=torch.randn(2, 3, 4).permute(2, 0, 1),
        f8=base.to(torch.float8_e4m3fn),
    )   # fmt: skip
    torch.save(saved, tmp_path / "a.pt")
    source, loaded = source_of(tmp_path / "a.pt"), torch.load(tmp_path / "a.pt")
    assert list(source) == list(loaded)
    for key, tensor in loaded.items():
        same = source.type(key).dtype.numpy.name == str(tensor.dtype).removeprefix("torch.")
        assert same and source[key].shape == tuple(tensor.shape)
        wide = tensor.detach().to(torch.float64).numpy()
        np.testing.assert_array_equal(source[key].astype(np.float64), wide)
        assert not source[key].flags.writeable and not source[key].flags.owndata
    assert np.shares_memory(source["f32"], source["transposed"])


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_state_dict_of_a_module_in_both_protocols(tmp_path: Path, protocol: int) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    torch.save(module.state_dict(), tmp_path / "a.pt", pickle_protocol=protocol)
    source = source_of(tmp_path / "a.pt")
    assert source.keys() == module.state_dict().keys()
    for key, tensor in module.state_dict().items():
        np.testing.assert_array_equal(source[key], tensor.numpy())


def test_other_values_are_passed_over_and_given_by_read_torch(tmp_path: Path) -> None:
    saved = {"x": torch.ones(2), "step": 3, "size": torch.Size([2, 3]), "more": [1.5, None, (True, "y", -(2**40))]}
    torch.save(saved, tmp_path / "a.pt")
    assert list(source_of(tmp_path / "a.pt")) == ["x"]
    found = read_torch(tmp_path / "a.pt")
    assert {k: v for k, v in found.items() if k != "x"} == {**{k: v for k, v in saved.items() if k != "x"}}


def test_the_handmade_archive_is_one(tmp_path: Path) -> None:
    """So that the refusals below are of what was changed."""
    np.testing.assert_array_equal(source_of(archive(tmp_path / "a.pt", tensor_pickle(), DATA))["x"], [1.5, -2])


class Hostile:
    """Runs a command where it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return SYSTEM, (f"touch {self.target}",)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_a_hostile_pickle_runs_nothing(tmp_path: Path, protocol: int) -> None:
    trap = tmp_path / "trap"
    hostile = pickle.dumps({"x": Hostile(trap)}, protocol)
    message = error_of(archive(tmp_path / "a.pt", hostile, DATA))
    asked = f"a.pt asks for {SYSTEM.__module__}.system, but a checkpoint needs tensors alone{SAFE}"
    assert message == (f"{NOT}torch.save writes no DICT{AGAIN}" if protocol == 0 else asked)
    assert not trap.exists()
    pickle.loads(hostile)
    assert trap.exists()   # it would have


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"\x80\x02cbuiltins\neval\n.", (
            f"a.pt asks for builtins.eval, but a checkpoint needs tensors alone{SAFE}"
        )),
            (b"\x80\x02(ios\nsystem\n.", f"{NOT}torch.save writes no INST{AGAIN}"),
        (b"\x80\x02X\x01\0\0\0a)R.", f"{NOT}a str cannot be called{AGAIN}"),
        (b"\x80\x02ctorch\nSize\n)\x81.", f"{NOT}a Function is no class{AGAIN}"),
        (b"\x80\x02\x82\x01.", f"{NOT}torch.save writes no EXT1{AGAIN}"),
        (b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x0f.", (
            f"{NOT}expected 1152921504606846975 bytes in a bytearray8, but only 1 remain{AGAIN}"
        )),
        (b"\x80\x02\x8b\xff\xff\xff\x7f.", f"{NOT}not enough data in stream to read long4{AGAIN}"),
        (b"\x80\x02X\xff\xff\xff\x7f.", (
            f"{NOT}expected 2147483647 bytes in a unicodestring4, but only 1 remain{AGAIN}"
        )),
        (b"\x80\x02}r\xff\xff\xff\xffj\xff\xff\xff\x7f.", f"{NOT}2147483647{AGAIN}"),
        (b"\x80\x02" + b"(" * 100_000 + b".", f"{NOT}there are more than 65536 values on the stack{AGAIN}"),
        (b"\x80\x02" + b"]" * 60_000 + b"a" * 59_999 + b".", (
            "a.pt holds a list, but must hold a dict of tensors"
        )),
        (b"\x80\x02}" + b")\x85" + b"q\0h\0\x86" * 60 + b"Ns.", (
            f"{NOT}the keys of a dict must be texts and numbers{AGAIN}"
        )),
        (b"\x80\x02X\x01\0\0\0a}b.", f"{NOT}a str is no dict{AGAIN}"),
        (b"\x80\x02}Nb.", f"{NOT}the attributes of a dict must be a dict{AGAIN}"),
        (b"\x80\x02NNa.", f"{NOT}a NoneType is no list{AGAIN}"),
        (b"\x80\x04NN\x93.", f"{NOT}the name of a global must be a text{AGAIN}"),
        (b"\x80\x02NQ.", f"{NOT}cannot unpack non-iterable NoneType object{AGAIN}"),
        (b"\x80\x02t.", f"{NOT}pop from empty list{AGAIN}"),
        (b"\x80\x02}", f"{NOT}pickle exhausted before seeing STOP{AGAIN}"),
        (b"\x80\x02].", "a.pt holds a list, but must hold a dict of tensors"),
    ],
)   # fmt: skip
def test_pickles_that_no_checkpoint_has(tmp_path: Path, pickled: bytes, message: str) -> None:
    assert error_of(archive(tmp_path / "a.pt", pickled)) == message


HUGE = b"\x8a\x07\0\0\0\0\0\0\x01"   # 1 << 48
NUMBERS = f"{NOT}sizes, strides and offsets must be whole numbers that a file can have{AGAIN}"
TENSORS: list[tuple[dict[str, bytes], str]] = [
    ({"shape": b"K\x03\x85"}, f"{NOT}a tensor of 3 elements ends at 3, but its storage has 2{AGAIN}"),
    ({"offset": b"K\x01"}, f"{NOT}a tensor of 2 elements ends at 3, but its storage has 2{AGAIN}"),
    ({"offset": b"J\xff\xff\xff\xff"}, NUMBERS),
    ({"strides": b"K\x02\x85"}, f"{NOT}a tensor of 2 elements ends at 3, but its storage has 2{AGAIN}"),
    ({"strides": b"K\0\x85"}, f"{NOT}a tensor of 2 elements ends at 1, but its storage has 2{AGAIN}"),
    ({"strides": b"J\xff\xff\xff\xff\x85"}, NUMBERS),
    ({"shape": HUGE + b"\x85"}, NUMBERS),
    ({"shape": b"\x88\x85"}, NUMBERS),
    ({"shape": b"]"}, NUMBERS),
    ({"strides": b")"}, f"{NOT}a tensor needs a storage and a stride an axis{AGAIN}"),
    ({"persistent": b""}, f"{NOT}a tensor needs a storage and a stride an axis{AGAIN}"),
    ({"storage": b"X\x05\0\0\0stage"}, f"{NOT}a persistent id is that of no storage{AGAIN}"),
    ({"storage": b"X\x07\0\0\0storageNX\x01\0\0\x000NNt"}, f"{NOT}a persistent id is that of no storage{AGAIN}"),
    ({"storage": b"X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x001NNt"}, (
        f"{NOT}member data/1 is missing{AGAIN}"
    )),
    ({"storage": b"X\x07\0\0\0storagectorch\nQInt8Storage\nX\x01\0\0\x000NNt"}, (
        f"a.pt asks for torch.QInt8Storage, but a checkpoint needs tensors alone{SAFE}"
    )),
    ({"function": b"ctorch._utils\n_rebuild_tensor_v3\n"}, f"{NOT}a tensor is of no element type{AGAIN}"),
]   # fmt: skip


@pytest.mark.parametrize(("changes", "message"), TENSORS)
def test_tensors_that_do_not_fit(tmp_path: Path, changes: dict[str, bytes], message: str) -> None:
    assert error_of(archive(tmp_path / "a.pt", tensor_pickle(**changes), DATA)) == message


def test_an_element_type_of_no_weights_is_refused_when_it_is_used(tmp_path: Path) -> None:
    torch.save({"x": torch.ones(3, dtype=torch.float64), "y": torch.ones(2)}, tmp_path / "a.pt")
    source = source_of(tmp_path / "a.pt")
    np.testing.assert_array_equal(source["y"], [1, 1])
    with pytest.raises(TrtcError) as error:
        source.type("x")
    known = "float32, float16, bfloat16, float8_e4m3fn, int8, uint8, int32, int64, bool"
    assert str(error.value) == f"error: a.pt: tensor x is float64, but must be one of {known}"
    with pytest.raises(TrtcError) as error:
        source.type("yy")
    assert str(error.value) == "error: tensor yy is missing from a.pt\n  = help: did you mean `y`?"


def test_compressed_members_and_zip_bombs(tmp_path: Path) -> None:
    file = archive(tmp_path / "a.pt", tensor_pickle(), DATA, compression=zipfile.ZIP_DEFLATED)
    assert error_of(file) == f"{NOT}member data.pkl is compressed or encrypted{AGAIN}"
    file = archive(tmp_path / "a.pt", b"}" * (20 << 20))
    longest = (1 << 20) + file.stat().st_size // 64   # what a pickle holds takes no more than its file
    assert error_of(file) == f"{NOT}member data.pkl has 20971520 bytes, but must have at most {longest}{AGAIN}"


def test_four_thousand_tensors(tmp_path: Path) -> None:
    torch.save({f"model.layers.{n}.mlp.weight": torch.full((2,), float(n)) for n in range(4000)}, tmp_path / "a.pt")
    source = source_of(tmp_path / "a.pt")
    assert len(source) == 4000 and all(source[f"model.layers.{n}.mlp.weight"][1] == n for n in (0, 999, 3999))


def test_members_twice_or_missing_or_big_endian(tmp_path: Path) -> None:
    file = archive(tmp_path / "a.pt", tensor_pickle(), {**DATA, "../a/data.pkl": b""})
    assert source_of(file).keys() == {"x"}   # its name is `../a/data.pkl`, and nothing is ever extracted
    with zipfile.ZipFile(file, "a") as made:
        made.writestr("b/data.pkl", b"")
    assert error_of(file) == f"{NOT}member data.pkl is there twice{AGAIN}"
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("a/version", b"3")
    assert error_of(file) == f"{NOT}member data.pkl is missing{AGAIN}"
    assert error_of(archive(file, tensor_pickle(), {**DATA, "byteorder": b"big"})) == f"{NOT}it is big-endian{AGAIN}"


def test_a_member_outside_the_file(tmp_path: Path) -> None:
    file = archive(tmp_path / "a.pt", tensor_pickle(), DATA)
    content = bytearray(file.read_bytes())
    entry = content.rfind(b"PK\1\2")
    struct.pack_into("<2I", content, entry + 20, 9999, 9999)   # its sizes
    file.write_bytes(content)
    assert error_of(file) == f"{NOT}member data/0 lies outside the file{AGAIN}"


def test_what_is_no_archive(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    assert error_of(file) == "FILE cannot be read: No such file or directory"
    torch.save({"x": torch.ones(2)}, file, _use_new_zipfile_serialization=False)
    assert error_of(file) == f"a.pt is no zip archive, but torch.save writes one{AGAIN}{OLD}"
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert error_of(file) == (
        "a.pt is no zip archive, but torch.save writes one\n"
        "  = help: this is a pointer of Git LFS; `git lfs pull` fetches the file"
    )
    torch.save({"x": torch.ones(200)}, file)
    file.write_bytes(file.read_bytes()[:-30])
    assert error_of(file) == f"a.pt is no zip archive, but torch.save writes one{AGAIN}{OLD}"


quick = settings(max_examples=cases(300), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def harmless(file: Path) -> None:
    """Refused, or of tensors that lie within the file."""
    try:
        source = source_of(file)
    except TrtcError:
        return
    size = file.stat().st_size
    for key, entry in source.entries.items():
        assert 0 <= entry.start <= entry.stop <= size
        with suppress(TrtcError):
            assert source[key].nbytes <= size and len(source[key].tobytes()) == source[key].nbytes


@quick
@given(st.data())
def test_any_damage_to_an_archive_is_refused_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    file = archive(tmp_path / "a.pt", tensor_pickle(), DATA)
    file.write_bytes(damaged(file.read_bytes(), data))
    harmless(file)


@pytest.mark.filterwarnings("ignore:invalid escape sequence")   # of a text that pickletools decodes
@quick
@given(st.data())
def test_any_damage_to_a_pickle_is_refused_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    harmless(archive(tmp_path / "a.pt", damaged(tensor_pickle(), data), DATA))


OPCODES = [bytes([b]) for b in b"(.012NQRabcehjqrtu}]\x80\x85\x86\x87\x88\x89\x93\x94KMJX)"]


@quick
@given(st.lists(st.sampled_from(OPCODES) | st.binary(max_size=3), max_size=40).map(b"".join))
def test_any_opcodes_are_refused_or_harmless(tmp_path: Path, pickled: bytes) -> None:
    harmless(archive(tmp_path / "a.pt", b"\x80\x02" + pickled + b".", DATA))
