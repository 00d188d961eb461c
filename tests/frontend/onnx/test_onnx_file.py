"""ONNX files: tensors mapped wherever they lie, and never believed beyond their file."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_onnx
from fuzz import cases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_onnx import WORDS, weights

from trtc.errors import TrtcError
from trtc.frontend import Limits, open_checkpoint
from trtc.frontend.sources.onnx_file import OnnxSource, read_onnx
from trtc.ir.types import f32

onnx: Any = import_module("onnx")
LIMITS = Limits(2, 8, 16)
AGAIN = "\n  = help: the file is cut short or is no ONNX model; fetch it again"


def source_of(file: Path) -> OnnxSource:
    return OnnxSource(file)


def error_of(file: Path) -> str:
    with pytest.raises(TrtcError) as error:
        read_onnx(file)
    return str(error.value).replace(str(file.parent), "FOLDER").removeprefix("error: ")


def logits(file: Path) -> Any:
    checkpoint = open_checkpoint(file)
    graph = checkpoint.graph(LIMITS, f32)
    cache = np.zeros((2, tiny_onnx.HEADS, 5, tiny_onnx.SIZE), np.float32)
    given = {"input_ids": [[1, 2, 3], [4, 5, 0]], "input_lengths": [3, 2], "past_lengths": [0, 0]}
    arrays = {k: np.array(v, np.int32) for k, v in given.items()}
    caches = {"layers.0.key_cache": cache, "layers.0.value_cache": cache}
    return graph.evaluate({**checkpoint.source, **caches, **arrays})["logits"]


def test_tensors_are_mapped_and_the_rest_is_the_model(tmp_path: Path) -> None:
    file = tiny_onnx.write(tmp_path / "a.onnx")
    source, skeleton = source_of(file), onnx.ModelProto.FromString(read_onnx(file).skeleton)
    for name, array in weights().items():
        assert not source[name].flags.owndata
        np.testing.assert_array_equal(source[name], array)
        source.release(name)
    assert not skeleton.graph.initializer
    assert [n.op_type for n in skeleton.graph.node].count("Constant") == 0   # they are tensors of the file, too
    assert source["hidden"] == np.float32(-1e9) and source["split"].tolist() == [0, 0, 2, 4]


def test_external_data_and_typed_fields_are_read(tmp_path: Path) -> None:
    want = logits(tiny_onnx.write(tmp_path / "a.onnx"))
    made = tiny_onnx.model()
    onnx.save(made, tmp_path / "b.onnx", save_as_external_data=True, location="b.data", size_threshold=0)
    assert (tmp_path / "b.data").stat().st_size > 1000
    np.testing.assert_array_equal(logits(tmp_path / "b.onnx"), want)

    def typed(made: Any) -> None:
        for tensor in made.graph.initializer:
            array = onnx.numpy_helper.to_array(tensor)
            tensor.ClearField("raw_data")
            tensor.float_data.extend(array.reshape(-1).tolist())
        for node in made.graph.node:
            if node.op_type == "Constant" and node.output[0] in ("split", "two", "seen"):
                array = onnx.numpy_helper.to_array(node.attribute[0].t)
                kind = node.attribute[0].t.data_type
                made_of = onnx.helper.make_tensor("", kind, array.shape, array.reshape(-1).tolist())
                node.attribute[0].t.CopyFrom(made_of)

    file = tiny_onnx.write(tmp_path / "c.onnx", typed)
    assert not source_of(file)["wte"].flags.owndata
    np.testing.assert_array_equal(logits(file), want)


def external(**pairs: str) -> tiny_onnx.Edit:
    def edit(made: Any) -> None:
        tensor = made.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in pairs.items():
            tensor.external_data.add(key=key, value=value)

    return edit


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ({"location": "/etc/passwd"}, "a.onnx: tensor wte lies in '/etc/passwd', but must lie in the model's folder"),
        ({"location": "../x"}, "a.onnx: tensor wte lies in '../x', but must lie in the model's folder"),
        ({}, "a.onnx: tensor wte lies in '.', but must lie in the model's folder"),
        ({"location": "gone"}, "gone is missing from FOLDER, but a.onnx: tensor wte lies in it"),
        ({"location": "data", "offset": "-1"}, (
            "a.onnx: tensor wte begins at '-1' and has '352' bytes, but must have numbers"
        )),
        ({"location": "data", "offset": "9"}, (
            f"a.onnx: tensor wte ends at byte 361 of data, but that has 352{AGAIN}"
        )),
        ({"location": "data", "length": "8"}, f"a.onnx: tensor wte has 8 bytes, but is FLOAT [11, 8]{AGAIN}"),
    ],
)   # fmt: skip
def test_external_data_that_does_not_fit(tmp_path: Path, pairs: dict[str, str], message: str) -> None:
    (tmp_path / "data").write_bytes(b"\0" * 4 * WORDS * tiny_onnx.WIDTH)
    assert error_of(tiny_onnx.write(tmp_path / "a.onnx", external(**pairs))) == message


def test_what_is_no_model(tmp_path: Path) -> None:
    file = tmp_path / "a.onnx"
    assert error_of(file) == "FOLDER/a.onnx cannot be read: No such file or directory"
    file.write_bytes(b"")
    assert error_of(file) == f"a.onnx is empty, but must be an ONNX model{AGAIN}"
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert error_of(file) == (
        "a.onnx cannot be read as an ONNX model: wire type 6 at byte 0\n"
        "  = help: this is a pointer of Git LFS; `git lfs pull` fetches the file"
    )
    tiny_onnx.write(file)
    file.write_bytes(file.read_bytes()[:-30])
    assert error_of(file).startswith("a.onnx cannot be read as an ONNX model: the field at byte ")

    def shrink(made: Any) -> None:
        made.graph.initializer[0].dims[0] = 12

    tiny_onnx.write(file, shrink)
    assert error_of(file) == f"a.onnx: tensor wte has 352 bytes, but is FLOAT [12, 8]{AGAIN}"


quick = settings(max_examples=cases(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
CONTENT = tiny_onnx.model().SerializeToString()


@quick
@given(st.data())
def test_any_damage_to_a_file_is_refused_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    made = bytearray(CONTENT)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(made) - 1)))
        kind = data.draw(st.sampled_from(["change", "change", "cut", "insert"]))
        new = data.draw(st.binary(min_size=1, max_size=8))
        made[at : len(made) if kind == "cut" else at + (len(new) if kind == "change" else 0)] = new
    harmless(tmp_path / "a.onnx", bytes(made))


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """protobuf gives strings that are no UTF-8 as bytes."""
    model = tiny_onnx.model()
    name = model.graph.output[-1].name.encode()
    before, _, after = model.SerializeToString().rpartition(name)
    file = tmp_path / "a.onnx"
    file.write_bytes(before + b"\xff" * len(name) + after)
    with pytest.raises(TrtcError) as error:
        open_checkpoint(file)
    shown = repr(b"\xff" * len(name))[:60]
    assert str(error.value) == f"error: a.onnx is no ONNX model: name is {shown}, but must be UTF-8{AGAIN}"


def harmless(file: Path, content: bytes) -> None:
    """Refused, or tensors within the file and a graph that verifies."""
    file.write_bytes(content)
    with suppress(TrtcError):
        source = source_of(file)
        for key in source:
            assert source[key].nbytes <= len(content)
        open_checkpoint(file).graph(LIMITS, f32).verify()


NUMBERS = st.integers(-5, 5) | st.lists(st.integers(-5, 9), max_size=4)
ATTRIBUTES = st.fixed_dictionaries({
    name: st.none() | NUMBERS | st.floats() | st.binary(max_size=3)
    for name in ("axis", "axes", "perm", "to", "value", "split", "epsilon")
})   # fmt: skip


@quick
@given(st.data())
def test_any_change_of_a_node_is_refused_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    """Other kinds, inputs and attributes: what Python and NumPy make of them never comes through."""
    made = tiny_onnx.model()
    names = sorted({name for node in made.graph.node for name in [*node.input, *node.output]})
    for _ in range(data.draw(st.integers(1, 3))):
        node = data.draw(st.sampled_from(list(made.graph.node)))
        kind = data.draw(st.sampled_from(KINDS))
        if data.draw(st.booleans()):
            node.op_type = kind
        if node.input and data.draw(st.booleans()):
            node.input[data.draw(st.integers(0, len(node.input) - 1))] = data.draw(st.sampled_from([*names, "", "?"]))
        if data.draw(st.booleans()):
            node.input.append(data.draw(st.sampled_from(names)))
        for name, value in data.draw(ATTRIBUTES).items():
            if value is not None and value != [] and name not in [a.name for a in node.attribute]:
                node.attribute.append(onnx.helper.make_attribute(name, value))
    harmless(tmp_path / "a.onnx", made.SerializeToString())


lift: Any = import_module("trtc.frontend.onnx.lift")
KINDS = sorted({*lift.LIFTS, *lift.FOLDS, "Loop", "NonZero", "Constant"})


@pytest.mark.parametrize("chain", ["sizes", "shapes", "conditions", "positions", "weights", "reshapes"])
def test_chains_that_double_are_refused_or_quick(tmp_path: Path, chain: str) -> None:
    """Sixty nodes, each of which reads the one before it twice, or twelve hundred that read it once."""
    first = {"sizes": "total", "conditions": "visible", "positions": "rows", "shapes": "keys"}
    kinds = {"sizes": "Mul", "conditions": "And", "shapes": "Concat", "reshapes": "Reshape"}
    last, kind, more = first.get(chain, "wq"), kinds.get(chain, "Add"), list[Any]()
    attributes: dict[str, int] = {"axis": 0} if kind == "Concat" else {}
    for n in range(1200 if chain == "reshapes" else 60):
        other = "flat" if chain == "reshapes" else last
        more.append(tiny_onnx.node(kind, f"{last} {other}", f"d{n}", **attributes))
        last = f"d{n}"
    use = {"conditions": ("mask", "Where", f"{last} seen hidden"), "weights": ("q.flat", "MatMul", f"x {last}")}
    name, kind, inputs = use.get(chain, ("visible", "LessOrEqual", f"keys {last}"))
    if chain in ("shapes", "sizes"):
        name, kind, inputs = "z", "Add", f"o {last}"
    flat = onnx.numpy_helper.from_array(np.array([8, 8]))
    made = [onnx.helper.make_node("Constant", [], ["flat"], value=flat), *more, tiny_onnx.node(kind, inputs, name)]
    harmless(tmp_path / "a.onnx", tiny_onnx.model(tiny_onnx.replaced(name, *made)).SerializeToString())
