"""What the networks of stand-ins record: layers, their inputs, and the shapes and types of what they give.

Shapes and types are as TensorRT's documentation has them: a size that only a run tells is -1. Networks of 8.6 are
weakly typed: a layer's type there is that of its first input, unless it is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from tensorrt_plugins import output_shapes, output_types

Shape: TypeAlias = tuple[int, ...]

RENAMED = {("fill", "op"): "operation", ("fill", "output_type"): "to_type", ("activation", "type"): "function"}
LAYER_TYPES = {"gather_v2": "GATHER", "attention": "ATTENTION_OUTPUT", "attention_v2": "ATTENTION_OUTPUT"}
TRUTHS = ("LESS", "EQUAL", "GREATER", "AND", "OR", "XOR", "NOT")


def tensor(trt: Any, name: str, layer: Any = None, index: int = 0) -> Any:
    """A new tensor: an input of the network's, or what a layer gives."""
    made = trt.ITensor()
    made.held["name"] = name
    made.own.update(layer=layer, index=index)
    return made


def add(network: Any, name: str, layer: Any, given: Mapping[str, Any]) -> Any:
    """Record the layer of an ``add_...``."""
    trt, kind = network.trt, name.removeprefix("add_")
    inputs: list[Any] = []
    for key, value in given.items():
        if isinstance(value, trt.ITensor):
            inputs.append(value)
        elif key == "inputs":
            inputs += value
        else:
            layer.held[RENAMED.get((kind, key), key)] = value
    layers: list[Any] = network.own.setdefault("layers", [])
    of = getattr(trt.LayerType, LAYER_TYPES.get(kind, kind.upper()))
    layer.own.update(kind=kind, label=of, inputs=inputs, types={}, outputs={})
    layer.held["name"] = f"(Unnamed Layer {len(layers)})"
    layers.append(layer)
    return layer


def add_plugin(network: Any, _: str, layer: Any, given: Mapping[str, Any]) -> Any:
    assert given["aot"] is True
    inputs, shapes, plugin = given["func"](network.trt.QuickPluginCreationRequest.STRICT_AOT)
    assert not shapes
    made = add(network, "add_plugin_v3", layer, {"inputs": inputs})
    made.own["plugin"] = plugin
    return made


def add_input(network: Any, _: str, made: Any, given: Mapping[str, Any]) -> Any:
    made = tensor(network.trt, given["name"])
    made.held.update(dtype=given["dtype"], shape=tuple(given["shape"]))
    network.own.setdefault("inputs", []).append(made)
    return made


def mark_output(network: Any, _: str, __: Any, given: Mapping[str, Any]) -> None:
    """An output of a weakly typed network is f32, whatever its layer gives, unless it is told otherwise."""
    trt, made = network.trt, given["tensor"]
    weak = not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
    if weak and made.dtype in (trt.float32, trt.float16):
        made.held.setdefault("dtype", trt.float32)
    network.own.setdefault("outputs", []).append(given["tensor"])


def listed(name: str) -> Callable[..., Any]:
    def get(network: Any, _: str, __: Any, given: Mapping[str, Any]) -> Any:
        return network.own[name][given["index"]]

    return get


def counted(name: str) -> Callable[[Any], int]:
    def count(network: Any) -> int:
        return len(network.own.get(name, []))

    return count


def set_input(layer: Any, _: str, __: Any, given: Mapping[str, Any]) -> Any:
    inputs, index = layer.own["inputs"], given["index"]
    inputs += [None] * (index + 1 - len(inputs))
    inputs[index] = given["tensor"]


def get_input(layer: Any, _: str, __: Any, given: Mapping[str, Any]) -> Any:
    return layer.own["inputs"][given["index"]]


def get_output(layer: Any, _: str, __: Any, given: Mapping[str, Any]) -> Any:
    index = given["index"]
    if index not in layer.own["outputs"]:
        layer.own["outputs"][index] = tensor(layer.trt, f"{layer.name}_output_{index}", layer, index)
    return layer.own["outputs"][index]


def set_output_type(layer: Any, _: str, __: Any, given: Mapping[str, Any]) -> None:
    layer.own["types"][given["index"]] = given["dtype"]


def num_inputs(layer: Any) -> int:
    return len(layer.own["inputs"])


def label(layer: Any) -> Any:
    return layer.own["label"]


def function(layer: Any) -> Any:
    """Of an activation; kept apart from the type of any layer, which has the same name."""
    return layer.held["function"]


def in_order(_: Any) -> Shape:
    return tuple(range(8))


def set_gated_weights(layer: Any, _: str, __: Any, given: Mapping[str, Any]) -> None:
    layer.own["inputs"] += [given[f"fc_{part}_weights"] for part in ("gate", "up", "down")]
    layer.held["activation_type"] = given["activation_type"]


def weights(made: Any, _: str, __: Any, given: Mapping[str, Any]) -> None:
    """Weights of an array, or at an address; 8.6 takes arrays alone."""
    names = {"float32": "FLOAT", "float16": "HALF", "int32": "INT32", "int64": "INT64", "bool": "BOOL", "int8": "INT8"}
    array = given.get("a")
    assert array is None or array.flags.c_contiguous
    made.held["dtype"] = getattr(made.trt.DataType, names[array.dtype.name]) if array is not None else given["type"]


def dtype(made: Any) -> Any:
    """The element type of a tensor."""
    layer, index = made.own["layer"], made.own["index"]
    if "dtype" not in made.own:
        made.own["dtype"] = layer.own["types"].get(index) or _dtype(layer, index)
    return made.own["dtype"]


def _dtype(layer: Any, index: int) -> Any:
    trt, own = layer.trt, layer.own
    if own["kind"] == "plugin_v3":
        inputs = own["inputs"]
        return output_types(own["plugin"], [t.dtype for t in inputs], [len(t.shape) for t in inputs])[index]
    if own["kind"] in ("cast", "fill"):
        return layer.held.get("to_type", trt.float32)
    if own["kind"] == "constant":
        return layer.held["weights"].dtype
    if own["kind"] == "shape":
        return trt.int64 if hasattr(trt, "int64") else trt.int32
    if own["kind"] == "topk" and index:
        return trt.int32
    if own["kind"] in ("elementwise", "unary") and layer.op.name in TRUTHS:
        return trt.bool
    return own["inputs"][1 if own["kind"] == "select" else 0].dtype


def shape(made: Any) -> Shape:
    """The shape of a tensor."""
    layer = made.own["layer"]
    sizes: list[Any] = [None if t is None else t.shape for t in layer.own["inputs"]]
    if layer.own["kind"] == "plugin_v3":
        _dtype(layer, 0)   # which TensorRT asks for first
        sizes = [output_shapes(layer.own["plugin"], [s for s in sizes if s is not None])[made.own["index"]]]
    made.held["shape"] = tuple(SHAPES.get(layer.own["kind"], _first)(layer, *sizes))
    return made.held["shape"]


def _first(layer: Any, x: Shape, *_: Any) -> Shape:
    return x


def _broadcast(layer: Any, *shapes: Shape) -> Shape:
    assert len({len(s) for s in shapes}) == 1, f"{layer.name} joins {shapes}, but takes equal ranks"
    return tuple(_joint({*each} - {1}) for each in zip(*shapes, strict=True))


def _joint(sizes: set[int]) -> int:
    """The size that several broadcast to: 1 where there is none."""
    known = sizes - {-1}
    assert len(known) <= 1, f"sizes {known} differ"
    return next(iter(known), -1 if sizes else 1)


def _shuffle(layer: Any, x: Shape, wanted: Shape | None = None) -> Shape:
    order: Shape = layer.first_transpose
    x = tuple(x[axis] for axis in order[: len(x)])
    if wanted:
        return (-1,) * wanted[0]
    given: Shape = layer.held.get("reshape_dims", x)
    sizes = [x[axis] if size == 0 else size for axis, size in enumerate(given)]   # which 0 stands for
    known = int(np.prod([s for s in sizes if s != -1], initial=1))
    if -1 in sizes and -1 not in x:
        sizes[sizes.index(-1)] = int(np.prod(x)) // known
    return tuple(sizes)


def _slice(layer: Any, x: Shape, start: Any = None, size: Shape | None = None, stride: Any = None) -> Shape:
    return (-1,) * size[0] if size else tuple(layer.held["shape"])


def _concatenation(layer: Any, *parts: Shape) -> Shape:
    axis: int = layer.axis
    sizes = [p[axis] for p in parts]
    return (*parts[0][:axis], -1 if -1 in sizes else sum(sizes), *parts[0][axis + 1 :])


def _gather(layer: Any, x: Shape, indices: Shape) -> Shape:
    axis, batch = layer.axis, layer.num_elementwise_dims
    return (*x[:axis], *indices[batch:], *x[axis + 1 :])


def _matrix_multiply(layer: Any, a: Shape, b: Shape) -> Shape:
    a, b = (
        (*s[:-2], s[-1], s[-2]) if op.name == "TRANSPOSE" else s for s, op in ((a, layer.op0), (b, layer.op1))
    )
    assert len({a[-1], b[-2]} - {-1}) <= 1, f"{layer.name} multiplies {a} by {b}"
    return (*_broadcast(layer, a[:-2], b[:-2]), a[-2], b[-1])


def _reduce(layer: Any, x: Shape) -> Shape:
    assert layer.keep_dims, layer.name
    return tuple(1 if layer.axes >> axis & 1 else size for axis, size in enumerate(x))


def _topk(layer: Any, x: Shape) -> Shape:
    return (*x[:-1], layer.k)


def _attention(layer: Any, q: Shape, k: Shape, v: Shape, *_: Any) -> Shape:
    return (*q[:-1], v[-1])


def _rank(layer: Any, x: Shape) -> Shape:
    return (len(x),)


def _line(layer: Any, *_: Any) -> Shape:
    return (-1,)


def _constant(layer: Any) -> Shape:
    return tuple(layer.held["shape"])


def _collective(layer: Any, x: Shape) -> Shape:
    kind, ranks = layer.held["dist_collective_op"].name, layer.num_ranks
    first = x[0] if x[0] == -1 or kind == "ALL_REDUCE" else x[0] * ranks if kind == "ALL_GATHER" else x[0] // ranks
    return (first, *x[1:])


SHAPES: dict[str, Callable[..., Shape]] = {
    "constant": _constant, "elementwise": _broadcast, "select": _broadcast, "shuffle": _shuffle, "slice": _slice,
    "concatenation": _concatenation, "gather_v2": _gather, "matrix_multiply": _matrix_multiply, "reduce": _reduce,
    "topk": _topk, "attention": _attention, "attention_v2": _attention, "dist_collective": _collective,
    "shape": _rank, "fill": _line,
}   # fmt: skip

BEHAVIOUR: dict[str, Callable[..., Any]] = {
    "add_": add, "add_plugin": add_plugin, "add_input": add_input, "mark_output": mark_output, "set_input": set_input,
    "get_output": get_output,
    "INetworkDefinition.get_layer": listed("layers"), "INetworkDefinition.get_input": listed("inputs"),
    "INetworkDefinition.get_output": listed("outputs"), "INetworkDefinition.num_layers": counted("layers"),
    "INetworkDefinition.num_inputs": counted("inputs"), "INetworkDefinition.num_outputs": counted("outputs"),
    "get_input": get_input, "set_output_type": set_output_type, "ILayer.type": label,
    "ILayer.num_inputs": num_inputs, "ITensor.dtype": dtype, "ITensor.shape": shape,
    "IActivationLayer.type": function, "IShuffleLayer.first_transpose": in_order, "Weights.__init__": weights,
    "IShuffleLayer.second_transpose": in_order, "IMoELayer.set_gated_weights": set_gated_weights,
}   # fmt: skip
"""What methods and properties do, by name, or by class and name; ``add_`` is any that adds a layer."""
