"""What cannot be imported is refused with a sentence that names the node, the input or the output."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import tiny_onnx
from tiny_onnx import FLOATS, INTS, Edit, node, replaced

from trtc.converter import convert
from trtc.errors import TrtcError
from trtc.frontend import Limits, open_checkpoint
from trtc.ir.types import f32

onnx: Any = import_module("onnx")
helper: Any = onnx.helper
PLAIN = (
    "\n  = help: export a decoder with past, such as decoder_with_past_model.onnx, "
    "with dynamic batch, sequence and past"
)
KERNELS = "\n  = help: give the model as it was exported, before ONNX Runtime's optimiser or a builder of its kernels"
CONTROL = "\n  = help: export without control flow: a decoder with past alone, and no merged one"
ONLY = "but the past may be read only joined with the new tokens or as a number"


def error_of(file: Path) -> str:
    with pytest.raises(TrtcError) as error:
        open_checkpoint(file).graph(Limits(2, 8, 16), f32)
    return str(error.value).removeprefix("error: ")


def an_input(name: str, kind: int = INTS, *shape: int | str) -> Edit:
    return lambda made: made.graph.input.append(helper.make_tensor_value_info(name, kind, shape or [1]))


def shaped(name: str, *shape: int | str, kind: int = INTS) -> Edit:
    def edit(made: Any) -> None:
        old = next(i for i in made.graph.input if i.name == name)
        old.CopyFrom(helper.make_tensor_value_info(name, kind, shape))

    return edit


def without_output(made: Any) -> None:
    del made.graph.output[2]


def contrib(made: Any) -> None:
    made.graph.node[-1].domain = "com.microsoft"
    made.graph.node[-1].op_type = "MatMulNBits"


BODY = helper.make_graph([], "body", [], [])
IF = helper.make_node("If", ["zero"], ["o"], name="/if", then_branch=BODY, else_branch=BODY)


KEY = "past_key_values.0.key"
TYPED = "a.onnx: input past_key_values.0.key is"
CASES: dict[str, tuple[Edit, str]] = {
    "op": (replaced("o", node("NonZero", "y", "o")), "ONNX op NonZero (node /o) cannot be imported"),
    "misspelt": (replaced("o", node("MatMull", "y wo", "o")), (
        "ONNX op MatMull (node /o) cannot be imported\n  = help: did you mean `MatMul`?"
    )),
    "contrib": (contrib, f"ONNX op com.microsoft.MatMulNBits (node /logits) cannot be imported{KERNELS}"),
    "control flow": (replaced("o", IF), f"ONNX op If (node /if) cannot be imported{CONTROL}"),
    "merged": (an_input("use_cache_branch"), (
        f"a.onnx is a merged decoder, with and without past, but must be one of them{PLAIN}"
    )),
    "input": (an_input("position_id"), (
        "a.onnx: input position_id is none of input_ids, attention_mask, position_ids, cache_position and "
        "past_key_values.N.key\n  = help: did you mean `position_ids`?"
    )),
    "layers": (an_input("past_key_values.2.key", FLOATS), (
        f"a.onnx: its pasts are not a key and a value of each layer, in order from 0{PLAIN}"
    )),
    "output": (without_output, f"a.onnx has no output present.0.value, but a decoder with past has{PLAIN}"),
    "static batch": (shaped("input_ids", 1, "sequence"), (
        f"a.onnx: input input_ids is [1, sequence], but must be [B, S]{PLAIN}"
    )),
    "static past": (shaped(KEY, "batch", 2, 7, 4, kind=FLOATS), (
        f"{TYPED} [batch, 2, 7, 4], but must be [B, a number, P, a number]{PLAIN}"
    )),
    "cache of integers": (shaped(KEY, "batch", 2, "past", 4), f"{TYPED} of int64, but must be of floats"),
    "ids of floats": (shaped("input_ids", "batch", "sequence", kind=FLOATS), (
        "a.onnx: input input_ids is of float32, but must be of integers"
    )),
    "missing tensor": (replaced("o", node("Add", "y hiden", "o")), (
        "a.onnx: tensor hiden is made by no node\n  = help: did you mean `hidden`?"
    )),
    "types": (replaced("z", node("Add", "x keys", "z")), (
        "Add (node /z) cannot be imported: add: operands have different dtypes, f32 and i32\n"
        "  = a : f32[B, S, 8]\n  = b : i32[S + P]"
    )),
    "run-time shape": (replaced("y", node("Reshape", "y.parts input_ids", "y")), (
        "Reshape (node /y) cannot be imported: input 1 is computed at run time, but must be known"
    )),
    "attribute": (replaced("z", node("Concat", "x o", "z")), "Concat (node /z) cannot be imported: 'axis'"),
    "axis": (replaced("z", node("Concat", "x o", "z", axis=3)), (
        "Concat (node /z) cannot be imported: axis 3 is outside a rank of 3"
    )),
    "past alone": (replaced("z", node("ReduceMean", f"{KEY}", "m", axes=[0, 1, 2, 3]), node("Add", "x m", "z")), (
        f"reduce_mean at ? reads the past alone, {ONLY}"
    )),
    "a count of the past": (replaced(
        "z", node("Range", "zero past one", "p"), node("Cast", "p", "f", to=1), node("ReduceMax", "f", "m"),
        node("Add", "x m", "z"),
    ), f"iota at ? counts to P, {ONLY}"),
    "no mask": (replaced("scores", node("Identity", "scaled", "scores")), (
        "matmul at ? reads the cache, but cannot be read as attention: it is no causal attention"
    )),
    "a mask that is not causal": (replaced("visible", node("LessOrEqual", "rows keys", "visible")), (
        "matmul at ? reads the cache, but cannot be read as attention: hidden scores are -1e+09, which a token that "
        "sees no key needs: the mask may hide all"
    )),
    "keys summed": (replaced("z", node("ReduceMean", "present.0.key", "m", keepdims=0), node("Add", "x m", "z")), (
        "reduce_mean at ? reads the cache, but cannot be read as attention: it is no causal attention"
    )),
    "logits": (replaced("logits", node("Transpose", "z", "logits", perm=[1, 0, 2])), (
        "logits are f32[S, B, 8], but must be those of each token, float[B, S, V]"
    )),
    "present": (replaced("present.0.value", node("Concat", "v past_key_values.0.value", "present.0.value", axis=2)), (
        f"concat at ? reads the past alone, {ONLY}"
    )),
}   # fmt: skip


@pytest.mark.parametrize(("edit", "message"), CASES.values(), ids=CASES.keys())
def test_refusals(tmp_path: Path, edit: Edit, message: str) -> None:
    assert error_of(tiny_onnx.write(tmp_path / "a.onnx", edit)) == message


def test_an_engine_of_ours_is_no_source(tmp_path: Path) -> None:
    """Its nodes are ONNX Runtime's kernels, and its inputs are not those of an export."""
    names = ("input_lengths", "past_lengths")
    file = tiny_onnx.write(tmp_path / "a.onnx", *(an_input(name) for name in names))
    assert error_of(file).startswith("a.onnx: input input_lengths is none of input_ids, attention_mask, position_ids")


def test_convert_takes_no_graph(tmp_path: Path) -> None:
    file = tiny_onnx.write(tmp_path / "a.onnx")
    with pytest.raises(TrtcError) as error:
        convert(file, tmp_path / "out")
    assert str(error.value) == (
        f"error: {file} is a graph of onnx, but a checkpoint is made of named weights\n"
        "  = help: trtc compile takes it as it is"
    )


def test_a_directory_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(TrtcError) as error:
        open_checkpoint(tmp_path, "onnx")
    assert str(error.value).endswith("onnx/model.onnx\n  = help: name the .onnx file itself")
