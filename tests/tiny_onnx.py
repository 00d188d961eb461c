"""A decoder with past of one layer, written by hand, that tests change and damage."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

onnx: Any = import_module("onnx")
helper: Any = onnx.helper
INTS, FLOATS = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT
WORDS, HEADS, SIZE = 11, 2, 4
WIDTH = HEADS * SIZE
Edit = Callable[[Any], None]
"""A change of a model, in place."""


def weights() -> dict[str, Any]:
    random = np.random.default_rng(5)
    shapes = {"wte": (WORDS, WIDTH), **{f"w{part}": (WIDTH, WIDTH) for part in "qkvo"}, "lm": (WIDTH, WORDS)}
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def node(kind: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), [output], name=f"/{output}", **attributes)


def _constant(name: str, numbers: Any, dtype: Any = np.int64) -> Any:
    return helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(np.array(numbers, dtype)))


def nodes() -> list[Any]:
    """x + attention(x), with a mask of -1e9 where a key comes after its token."""
    made = [
        _constant("zero", 0), _constant("one", 1), _constant("two", 2), _constant("last", [-1]),
        _constant("split", [0, 0, HEADS, SIZE]), _constant("join", [0, 0, WIDTH]),
        _constant("seen", 0.0, np.float32), _constant("hidden", -1e9, np.float32), _constant("scale", 0.5, np.float32),
        node("Gather", "wte input_ids", "x"),
    ]   # fmt: skip
    for part in "qkv":
        made += [
            node("MatMul", f"x w{part}", f"{part}.flat"), node("Reshape", f"{part}.flat split", f"{part}.parts"),
            node("Transpose", f"{part}.parts", part, perm=[0, 2, 1, 3]),
        ]   # fmt: skip
    return [
        *made,
        node("Concat", "past_key_values.0.key k", "present.0.key", axis=2),
        node("Concat", "past_key_values.0.value v", "present.0.value", axis=2),
        node("Shape", "past_key_values.0.key", "sizes"), node("Gather", "sizes two", "past"),
        node("Shape", "input_ids", "ids.sizes"), node("Gather", "ids.sizes one", "new"),
        node("Add", "past new", "total"), node("Range", "zero total one", "keys"),
        node("Range", "past total one", "places"), node("Unsqueeze", "places last", "rows"),
        node("LessOrEqual", "keys rows", "visible"), node("Where", "visible seen hidden", "mask"),
        node("Transpose", "present.0.key", "k.T", perm=[0, 1, 3, 2]), node("MatMul", "q k.T", "product"),
        node("Mul", "product scale", "scaled"), node("Add", "scaled mask", "scores"),
        node("Softmax", "scores", "chosen", axis=-1), node("MatMul", "chosen present.0.value", "y.heads"),
        node("Transpose", "y.heads", "y.parts", perm=[0, 2, 1, 3]), node("Reshape", "y.parts join", "y"),
        node("MatMul", "y wo", "o"), node("Add", "x o", "z"), node("MatMul", "z lm", "logits"),
    ]   # fmt: skip


def model(*edits: Edit) -> Any:
    """The model, changed."""
    past = ["batch", HEADS, "past", SIZE]
    inputs = [helper.make_tensor_value_info("input_ids", INTS, ["batch", "sequence"])]
    inputs += [helper.make_tensor_value_info(f"past_key_values.0.{kind}", FLOATS, past) for kind in ("key", "value")]
    outputs = [onnx.ValueInfoProto(name=name) for name in ("logits", "present.0.key", "present.0.value")]
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in weights().items()]
    made = helper.make_model(
        helper.make_graph(nodes(), "tiny", inputs, outputs, tensors), opset_imports=[helper.make_opsetid("", 17)]
    )
    for edit in edits:
        edit(made)
    return made


def write(file: Path, *edits: Edit) -> Path:
    file.write_bytes(model(*edits).SerializeToString())
    return file


def replaced(name: str, *new: Any) -> Edit:
    """The node that makes a tensor, replaced by others."""

    def edit(made: Any) -> None:
        old = list(made.graph.node)
        at = next(i for i, n in enumerate(old) if name in n.output)
        del made.graph.node[:]
        made.graph.node.extend([*old[:at], *new, *old[at + 1 :]])

    return edit
