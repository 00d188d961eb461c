"""Tar archives: members are those of Python's tarfile, and damage is refused or harmless."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from fuzz import cases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nemo_files import pack
from sources import damaged

from trtc.errors import TrtcError
from trtc.frontend import open_checkpoint
from trtc.frontend.sources.tar import read_tar


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_of_tarfile(tmp_path: Path, form: int) -> None:
    files = {"a": b"x" * 700, "b/c.ckpt": b"", f"{'d' * 90}/{'e' * 90}": b"long", "f": b"y" * 512}
    if form != tarfile.USTAR_FORMAT:
        files |= {"g" * 300: b"longer", "häß": b"z"}
    pack(tmp_path / "a.tar", files, form)
    found = read_tar(tmp_path / "a.tar")
    assert {name: member.read(1 << 20) for name, member in found.items()} == files


Change = Callable[[tarfile.TarInfo], object]


def hostile_tar(file: Path, name: str, change: Change = lambda _: None, content: bytes = b"xy") -> Path:
    with tarfile.open(file, "w:", format=tarfile.GNU_FORMAT) as tar:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        change(member)
        tar.addfile(member, io.BytesIO(content))
    return file


def test_links_and_paths_out_of_an_archive_lead_nowhere(tmp_path: Path) -> None:
    def link(member: tarfile.TarInfo) -> None:
        member.type, member.linkname, member.size = tarfile.SYMTYPE, "/etc/passwd", 0

    assert read_tar(hostile_tar(tmp_path / "a.tar", "model_config.yaml", link)) == {}
    (found,) = read_tar(hostile_tar(tmp_path / "a.tar", "../../model_config.yaml")).items()
    assert found[0] == "../../model_config.yaml" and found[1].read(9) == b"xy"   # a name, and nothing is unpacked
    with pytest.raises(TrtcError, match=r"model_config\.yaml is missing from "):
        open_checkpoint(hostile_tar(tmp_path / "a.nemo", "../model_weights.ckpt"))


AGAIN = "\n  = help: the file is cut short or is no checkpoint; fetch it again"
NOT = "error: a.tar cannot be read as a tar archive: "
TARS: list[tuple[Callable[[bytes], bytes], str]] = [
    (lambda _: b"", "its end is missing"),
    (lambda c: c[:512], "a member of 2 bytes begins at byte 512, but the file has 512"),
    (lambda c: c[:1024], "its end is missing"),
    (lambda c: b"y" + c[1:], "byte 0 begins no header"),
    (lambda c: resized(c, b"77777777777\0"), (
        "a member of 8589934591 bytes begins at byte 512, but the file has 10240"
    )),
    (lambda c: resized(c, b"\x80" + b"\xff" * 11), (
        f"a member of {(1 << 88) - 1} bytes begins at byte 512, but the file has 10240"
    )),
    (lambda c: resized(c, b"-0000000001\0"), "a member of -1 bytes begins at byte 512, but the file has 10240"),
    (lambda c: resized(c, b"9999999999 \0"), "invalid literal for int() with base 8: b'9999999999'"),
    (lambda c: c[:1024] + c[:1024] + bytes(1024), "member model_config.yaml is there twice"),
    (lambda c: retyped(c, b"S"), "member model_config.yaml is of type b'S', but must be a plain file"),
    (lambda c: retyped(c, b"x"), "invalid literal for int() with base 10: b'xy'"),
]   # fmt: skip


def checked(content: bytearray) -> bytes:
    """With the checksum of its first header made right."""
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    return bytes(content)


def resized(content: bytes, size: bytes) -> bytes:
    return checked(bytearray(content[:124] + size + content[136:]))


def retyped(content: bytes, kind: bytes) -> bytes:
    return checked(bytearray(content[:156] + kind + content[157:]))


@pytest.mark.parametrize(("change", "message"), TARS)
def test_archives_that_are_none(tmp_path: Path, change: Callable[[bytes], bytes], message: str) -> None:
    file = hostile_tar(tmp_path / "a.tar", "model_config.yaml")
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(TrtcError) as error:
        read_tar(file)
    assert str(error.value) == f"{NOT}{message}{AGAIN}"


quick = settings(max_examples=cases(500), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(st.data())
def test_any_damage_to_an_archive_is_refused_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    file = tmp_path / "a.tar"
    form = data.draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    pack(file, {"a": b"x" * 20, "e" * 120: b"y" * 600}, form)
    content = file.read_bytes()[:4096]
    if data.draw(st.booleans()):
        content = damaged(content, data)
    else:
        content = checked(bytearray(damaged(content[:512], data).ljust(512, b"\0")[:512] + content[512:]))
    file.write_bytes(content)
    try:
        found = read_tar(file)
    except TrtcError:
        return
    assert all(0 <= m.start <= m.start + m.size <= len(content) for m in found.values())
