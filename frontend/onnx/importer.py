"""The nodes of an ONNX model as ops: the graph that the file states, in its own sizes."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np

from trtc.errors import MissingPackage, TrtcError
from trtc.frontend.onnx.interface import Interface, read_interface
from trtc.frontend.onnx.known import MOST, Unknown, check_size, known, value_of
from trtc.frontend.onnx.lift import FOLDS, LIFTS, Lifted, Node
from trtc.frontend.sources.onnx_file import AGAIN, OnnxSource
from trtc.ir.errors import IRError, nearest
from trtc.ir.graph import Graph
from trtc.ir.op import Array, Value, at
from trtc.ir.ops import Cast, Input, Weight
from trtc.ir.types import Bounds, i32, i64

MALFORMED = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError)
"""What Python and NumPy raise where attributes and shapes do not fit."""


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise MissingPackage(name, "onnx", "read ONNX models") from None


def read_model(skeleton: bytes, file: str) -> Any:
    """The model as a graph of onnx-graphsurgeon: functions inlined, dead nodes gone, nodes in order.

    Errors:
        TrtcError: it is no model, or its nodes make a circle.
    """
    onnx, surgeon = _module("onnx"), _module("onnx_graphsurgeon")
    log: Any = _module("onnx_graphsurgeon.logger").G_LOGGER
    log.severity = log.CRITICAL
    try:
        model = onnx.ModelProto.FromString(skeleton)
        check_text(model)
        if model.functions:
            model = import_module("onnx.inliner").inline_local_functions(model)
        graph = surgeon.import_onnx(model)
        return graph.cleanup(remove_unused_graph_inputs=False).toposort()
    except Exception as error:   # theirs share no base
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise TrtcError(f"{file} is no ONNX model: {reason[0]:.200}", AGAIN) from None


def check_text(message: Any) -> None:
    """Raise a ValueError where a string is no UTF-8, which protobuf gives as bytes."""
    for field, value in message.ListFields():
        inner = field.type == field.TYPE_MESSAGE
        if inner or field.type == field.TYPE_STRING:
            for part in [value] if isinstance(value, (str, bytes)) or hasattr(value, "ListFields") else value:
                if inner:
                    check_text(part)
                elif isinstance(part, bytes):
                    raise ValueError(f"{field.name} is {part!r:.60}, but must be UTF-8")


class Importer:
    """Lifts the nodes of one model, each by the function of its kind.

    Args:
        model: of onnx-graphsurgeon.
        source: the model's tensors.
        file: its name, for messages.
    """

    def __init__(self, model: Any, source: OnnxSource, file: str) -> None:
        self.model, self.source, self.file = model, source, file
        outputs = [o.name for o in model.outputs]
        self.interface: Interface = read_interface(list(model.inputs), outputs, file)
        self.tensors: dict[str, Lifted] = dict(self.interface.inputs)
        ids, cache = self.interface.inputs["input_ids"], self.interface.caches[0]
        self.sizes: dict[str, tuple[Value, int]] = {"B": (ids, 0), "S": (ids, 1), "P": (cache, 2)}
        self.entered: dict[int, tuple[Array, Value]] = {}   # known elements that are values already, by their identity

    def graph(self, bounds: Bounds) -> Graph:
        """The model's graph: inputs and outputs as its interface has them, B, S and P for its sizes."""
        for node in self.model.nodes:
            self._lift(node)
        names = ("logits", *self.interface.presents)
        outputs = {name: self.enter(self.find(name)) for name in names}
        inputs = [i for i in self.interface.inputs.values() if isinstance(i, Input)]
        return Graph("decoder", tuple(inputs), outputs, bounds)

    def find(self, name: str) -> Lifted:
        """A tensor by name: lifted already, or one of the file's."""
        if name not in self.tensors:
            if name not in self.source.entries:
                near = nearest(name, [*self.tensors, *self.source.entries])
                raise TrtcError(f"{self.file}: tensor {name} is made by no node", *near)
            self.tensors[name] = self._stored(name)
        return self.tensors[name]

    def _stored(self, name: str) -> Lifted:
        """A weight; the elements themselves where they are few."""
        of = self.source.type(name)
        if of.numel() <= (1 if of.dtype.is_float else MOST):
            return known(np.array(self.source[name]))
        weight = Weight(name, of)
        return Cast(weight, i32) if of.dtype == i64 else weight

    def enter(self, lifted: Lifted) -> Value:
        """A tensor as a value of the graph."""
        if isinstance(lifted, Value):
            return lifted
        if id(lifted) not in self.entered:
            self.entered[id(lifted)] = lifted, value_of(lifted, self.sizes)
        return self.entered[id(lifted)][1]

    def _lift(self, given: Any) -> None:
        inputs = [self._input(tensor) for tensor in given.inputs]
        node = Node(given.op, inputs, dict(given.attrs), len(given.outputs), self.model.opset, self.enter)
        with at(_place(given), absolute=True):
            try:
                self._keep(given, self._made(node, given))
            except IRError as error:
                raise TrtcError(f"{_named(given)} cannot be imported: {error.message}", *error.facts) from None
            except MALFORMED as error:
                raise TrtcError(f"{_named(given)} cannot be imported: {error}") from None

    def _keep(self, given: Any, made: Lifted | tuple[Lifted, ...]) -> None:
        results = made if isinstance(made, tuple) else (made,)
        for output, result in zip(given.outputs, results, strict=False):
            for size in result.shape:
                check_size(size)
            self.tensors[output.name] = result if isinstance(result, Value) else known(result)

    def _input(self, tensor: Any) -> Lifted | None:
        if not tensor.name:
            return None
        if tensor.name not in self.tensors and hasattr(tensor, "values"):
            self.tensors[tensor.name] = known(np.asarray(tensor.values))   # in a typed field
        return self.find(tensor.name)

    def _made(self, node: Node, given: Any) -> Lifted | tuple[Lifted, ...]:
        if node.kind == "Constant":
            return _constant(node.attributes)
        if given.domain not in (None, "", "ai.onnx") or (node.kind not in LIFTS and node.kind not in FOLDS):
            kind = f"{given.domain}.{node.kind}" if given.domain else node.kind
            raise TrtcError(f"ONNX op {kind} ({_where(given)}) cannot be imported", *_help(given, self.model))
        arrays = [i for i in node.inputs if i is not None and not isinstance(i, Value)]
        if node.kind in FOLDS and len(arrays) == len([i for i in node.inputs if i is not None]):
            try:
                return known(FOLDS[node.kind](node, *arrays))
            except Unknown:
                pass
        if node.kind not in LIFTS:
            raise ValueError("it is known on shapes alone, but its input is computed")
        return LIFTS[node.kind](node)


def _constant(attributes: Mapping[str, Any]) -> Array:
    """The elements of a Constant node that are no weight."""
    for name, value in attributes.items():
        if name == "value":
            return known(np.asarray(value.values))
        if name in ("value_int", "value_ints"):
            return known(np.asarray(value, np.int64))
        if name in ("value_float", "value_floats"):
            return known(np.asarray(value, np.float32))
    raise ValueError("it has no number")


def _named(given: Any) -> str:
    return f"{given.op} ({_where(given)})"


def _where(given: Any) -> str:
    return f"node {given.name or given.outputs[0].name}"


def _place(given: Any) -> str:
    """The part of the model that a node's name states: ``/model/layers.0/mlp/MatMul`` is model.layers.0.mlp."""
    parts = [part for part in given.name.split("/") if part]
    return ".".join(parts[:-1]) if len(parts) > 1 else ""


def _help(given: Any, model: Any) -> list[str]:
    if any(isinstance(value, type(model)) for value in given.attrs.values()):
        return ["help: export without control flow: a decoder with past alone, and no merged one"]
    if given.domain == "com.microsoft":
        return ["help: give the model as it was exported, before ONNX Runtime's optimiser or a builder of its kernels"]
    return nearest(given.op, LIFTS)
