"""A legal graph as an ONNX model with its weights beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from trtc.backend.bundle import BundleWriter, HashingFile, Progress, signature, silent
from trtc.backend.onnx.lower import Emitter
from trtc.backend.onnx.lower.registry import onnx_module
from trtc.ir.graph import Graph
from trtc.ir.materialize import Stored, frontier, stream, weights_of
from trtc.ir.op import Array, Op, Result, Value
from trtc.ir.ops import Cast, Constant, Input
from trtc.ir.target import Target
from trtc.ir.types import TensorType

OPSET, IR_VERSION = 24, 11
PAGE = 4096   # external tensors begin on a page, so that they can be mapped


def is_widening(op: Op) -> bool:
    """A cast of a 16-bit float to f32: done by the engine when it loads, so that its files stay small."""
    return isinstance(op, Cast) and op.x.dtype.is_float and op.x.dtype.bits == 16 and op.to.bits == 32


def build(
    graph: Graph,
    tensors: Mapping[str, Array],
    bundle: BundleWriter,
    folder: str,
    *,
    target: Target | None = None,
    threads: int = 2,
    progress: Progress = silent,
    release: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Write ``folder/model.onnx`` and ``folder/weights.bin`` into a bundle.

    Args:
        graph: legal for the target `onnx`.
        tensors: the checkpoint's tensors by key.
        target: not looked at: every version is written alike.
        threads: constants that are materialised at a time.
        release: told each key whose tensor is written.
    Result:
        What engine.json says of this rank: the engine's file, its inputs and outputs.
    """
    stored = stored_constants(graph)
    places = _places(stored)
    model = _model(graph, stored, places)
    total = max((start + length for start, length in places.values()), default=0)
    with bundle.open(f"{folder}/weights.bin") as file:
        for item, array in stream(stored, tensors, threads=threads, release=release):
            _write(file, array, places[item.name][0])
            for key in weights_of(item.value):
                release(key)
            progress("weights", file.bytes, total)
    progress("model", 0, 1)
    with bundle.open(f"{folder}/model.onnx") as file:
        file.write(model.SerializeToString())
    onnx_module().checker.check_model(bundle.folder / folder / "model.onnx")
    progress("model", 1, 1)
    return {"engine": f"{folder}/model.onnx", **signature(graph)}


def stored_bytes(graph: Graph) -> int:
    """The bytes of weights that the engine of a graph stores."""
    return sum(s.value.type.nbytes() for s in stored_constants(graph))


def emitted(graph: Graph) -> list[Op]:
    """The ops that become nodes: those that depend on inputs, and the widening casts that are read as they are."""
    found = [op for op in graph.ops if not graph.is_constant(op)]
    read = {v for op in found for v in op.operands.values()} | set(graph.outputs.values())
    return [op for op in graph.ops if op in read and is_widening(op) and graph.is_constant(op)] + found


def stored_constants(graph: Graph) -> list[Stored]:
    """The constants that the engine stores, in order of use; those that only the outputs read come last."""
    ops = emitted(graph)
    read = {v for op in ops for v in op.operands.values()}
    stored = [s for s in frontier(graph, is_widening) if s.value in read]
    known = {s.value for s in stored} | set(ops)
    return stored + [
        Stored(f"{name}.constant", v)
        for name, v in graph.outputs.items()
        if v not in known and graph.is_constant(v) and not _is_literal(v)
    ]


def _is_literal(value: Value) -> bool:
    return isinstance(value, Constant) and value.type.numel() == 1


def _places(stored: list[Stored]) -> dict[str, tuple[int, int]]:
    """The offset and length of each stored tensor in weights.bin."""
    places: dict[str, tuple[int, int]] = {}
    end = 0
    for item in stored:
        start = -(-end // PAGE) * PAGE
        places[item.name] = start, item.value.type.nbytes()
        end = start + item.value.type.nbytes()
    return places


def _write(file: HashingFile, array: Array, offset: int) -> None:
    file.write(b"\0" * (offset - file.bytes))
    file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _model(graph: Graph, stored: list[Stored], places: Mapping[str, tuple[int, int]]) -> Any:
    io = signature(graph)
    names: dict[Value, str] = {i: i.key for i in graph.inputs} | {s.value: s.name for s in stored}
    sizes = {
        str(size): (i.key, axis)
        for i in reversed(graph.inputs)
        for axis, size in reversed(list(enumerate(i.shape)))
        if str(size) in graph.bounds
    }
    to = Emitter(names, sizes)
    for op in graph.ops:
        if isinstance(op, Constant) and _is_literal(op):
            names[op] = to.literal(op.evaluate(), op.dtype.numpy)
    for op in emitted(graph):
        if not isinstance(op, Input | Result):
            to.emit(op)
    outputs = [o["name"] for o in io["outputs"]]
    _name_outputs(to, [names[v] for v in graph.outputs.values()], outputs)
    helper = to.onnx.helper
    body = helper.make_graph(
        to.nodes, graph.name,
        [_typed(to, i.key, i.type) for i in graph.inputs],
        [_typed(to, name, v.type) for name, v in zip(outputs, graph.outputs.values(), strict=True)],
        [*_literals(to), *(_external(to, s, *places[s.name]) for s in stored)],
    )   # fmt: skip
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(body, opset_imports=opsets, ir_version=IR_VERSION, producer_name="trtc")


def _name_outputs(to: Emitter, made: list[str], wanted: list[str]) -> None:
    """Give the model's outputs their names: where they are made, or by a copy of what has another name already."""
    produced = {name for node in to.nodes for name in node.output}
    new: dict[str, str] = {}
    copies: list[tuple[str, str]] = []
    for name, want in zip(made, wanted, strict=True):
        if name in produced and name not in new:
            new[name] = want
        else:
            copies.append((name, want))
    for node in to.nodes:
        node.input[:] = [new.get(n, n) for n in node.input]
        node.output[:] = [new.get(n, n) for n in node.output]
    to.nodes += [to.onnx.helper.make_node("Identity", [new.get(n, n)], [w], name=f"{w}/copy") for n, w in copies]


def _typed(to: Emitter, name: str, of: TensorType) -> Any:
    shape = [s if isinstance(s, int) else str(s) for s in of.shape]
    return to.onnx.helper.make_tensor_value_info(name, to.onnx_dtype(of.dtype), shape)


def _literals(to: Emitter) -> list[Any]:
    return [to.onnx.numpy_helper.from_array(array, name) for name, array in to.literals.items()]


def _external(to: Emitter, stored: Stored, offset: int, length: int) -> Any:
    of = stored.value.type
    tensor = to.onnx.TensorProto(name=stored.name, data_type=to.onnx_dtype(of.dtype), dims=of.shape)
    tensor.data_location = to.onnx.TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor

