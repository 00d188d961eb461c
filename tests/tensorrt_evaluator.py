"""A NumPy evaluator of TensorRT networks, layer by layer, from what the network itself says of its layers.

It knows nothing of the IR: what a layer means is taken from TensorRT's documentation. Floats narrower than f32 are
computed in f32 and rounded after each layer; or not rounded at all, so that a network can be compared closely with
another computation, which would round elsewhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias, cast

import ml_dtypes
import numpy as np
import numpy.typing as npt

from trtc.backend.bundle import Progress, bundle, silent
from trtc.backend.tensorrt.bindings import rtx
from trtc.backend.tensorrt.build import begin, build, emit_network
from trtc.backend.tensorrt.emit import Emitter
from trtc.backend.tensorrt.plugins import Call, call_of
from trtc.backend.tensorrt.target import tensorrt_rtx
from trtc.ir import Graph
from trtc.ir.ops.collective import met

Array: TypeAlias = npt.NDArray[Any]
Meaning: TypeAlias = Callable[..., Any]

NUMPY = {
    "FLOAT": np.float32, "HALF": np.float16, "BF16": ml_dtypes.bfloat16, "INT32": np.int32, "INT64": np.int64,
    "BOOL": np.bool_, "INT8": np.int8,
}   # fmt: skip
ELEMENTWISE: dict[str, Meaning] = {
    "SUM": np.add, "PROD": np.multiply, "MAX": np.maximum, "MIN": np.minimum, "SUB": np.subtract, "DIV": np.divide,
    "POW": np.power, "AND": np.logical_and, "OR": np.logical_or, "EQUAL": np.equal, "LESS": np.less,
    "GREATER": np.greater,
}   # fmt: skip
UNARY: dict[str, Meaning] = {
    "EXP": np.exp, "SQRT": np.sqrt, "RECIP": np.reciprocal, "NEG": np.negative, "SIN": np.sin, "COS": np.cos,
    "ERF": np.vectorize(math.erf, otypes=[np.float32]), "NOT": np.logical_not,
}   # fmt: skip
ACTIVATION: dict[str, Callable[[Any], Any]] = {
    "RELU": lambda x: np.maximum(x, 0),
    "SIGMOID": lambda x: 1 / (1 + np.exp(-x)),
    "TANH": np.tanh,
    "GELU_ERF": lambda x: 0.5 * x * (1 + UNARY["ERF"](x / math.sqrt(2))),
    "GELU_TANH": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (0.044715 * x**3 + x))),
}
SPELT = {"KV_CACHE_UPDATE": "KVCacheUpdate", "ELEMENTWISE": "ElementWise", "SOFTMAX": "SoftMax", "TOPK": "TopK"}
REDUCE: dict[str, Meaning] = {"SUM": np.sum, "AVG": np.mean, "MAX": np.max}


def wide(x: Array) -> Array:
    return x.astype(np.float32) if x.dtype.itemsize == 2 else x


def build_plan(
    graph: Graph,
    tensors: Mapping[str, Array],
    out: Path,
    progress: Progress = silent,
    release: Callable[[str], None] = lambda _: None,
) -> tuple[bytes, dict[str, Any]]:
    """The plan of a legal graph, written to a bundle at ``out``, and what engine.json says of it."""
    with bundle(out, 0) as writer:
        said = build(graph, tensors, writer, "rank0", target=tensorrt_rtx(""), progress=progress, release=release)
        assert list(writer.files) == [said["engine"]] == ["rank0/model.plan"]
    return (out / said["engine"]).read_bytes(), said


def kernels(plan: bytes) -> set[str]:
    """The names of kernels in a plan, from its own text."""
    found = re.findall(rb"(?:function|fully_connected|runtime_fusion)=\{ name=(\S{1,90})", plan)
    return {name.decode() for name in found}


def emitted(graph: Graph, tensors: Mapping[str, Array], trt: Any = None, sm: int = 0) -> tuple[Emitter, Any]:
    """The emitter with the network of a legal graph, and what must stay alive as long."""
    builder, emit = begin(trt or rtx(), graph, sm)
    emit_network(emit, tensors)
    return emit, builder


def network_of(
    graph: Graph, tensors: Mapping[str, Array], *, rounds: bool = True, trt: Any = None, sm: int = 0
) -> Evaluator:
    """The network that a legal graph is lowered to, as a function of its inputs; of TensorRT-RTX if nothing is said.

    Args:
        sm: the GPU that kernels in plugins are compiled for.
    """
    return Evaluator(*emitted(graph, tensors, trt, sm), rounds=rounds)


class Evaluator:
    """Evaluates one network.

    Args:
        emit: what has filled it; it keeps the array of each constant layer: narrow floats cannot be read from there.
        builder: the network's, which must not die before it.
        rounds: f16 and bf16 tensors hold such numbers, instead of f32.
    """

    def __init__(self, emit: Emitter, builder: Any, *, rounds: bool) -> None:
        self.emit, self.builder, self.rounds = emit, builder, rounds
        self.trt, self.network, self.constants = emit.trt, emit.network, emit.arrays
        self.values: dict[Any, Array] = {}
        self.kind: Callable[[Any], Any] = self.trt.ILayer.type.fget

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs for these inputs, by name."""
        self.values = {}
        for i in range(self.network.num_inputs):
            tensor = self.network.get_input(i)
            array = np.asarray(feeds[tensor.name])
            assert array.dtype == self._numpy(tensor.dtype), f"{tensor.name} is {array.dtype}, not {tensor.dtype}"
            assert all(want in (-1, got) for want, got in zip(tensor.shape, array.shape, strict=True)), tensor.name
            self.values[tensor] = array
        with np.errstate(all="ignore"):
            for i in range(self.network.num_layers):
                self._step(self.network.get_layer(i))
        outputs = [self.network.get_output(i) for i in range(self.network.num_outputs)]
        return {t.name: self.values[t] for t in outputs}

    def _numpy(self, dtype: Any) -> Any:
        return NUMPY["FLOAT" if not self.rounds and dtype.name in ("HALF", "BF16") else dtype.name]

    def kinds(self) -> set[str]:
        """The kinds of layers in the network, as TensorRT names them."""
        return {self.kind(self.network.get_layer(i)).name for i in range(self.network.num_layers)}

    def _step(self, layer: Any) -> None:
        kind = self.kind(layer).name
        if kind == "ATTENTION_INPUT":   # its output layer does it all
            return
        if type(layer) is self.trt.ILayer:   # as it is of TensorRT's own networks
            words = "".join(word.capitalize() for word in kind.split("_"))
            layer.__class__ = getattr(self.trt, f"I{SPELT.get(kind, words)}Layer")
        inputs = [] if kind == "ATTENTION_OUTPUT" else self._inputs(layer)
        result: Any = getattr(self, f"_{kind.lower()}")(layer, *inputs)
        first = int(kind == "TOPK")   # of which only the second is read
        results = cast("tuple[Any, ...]", result if isinstance(result, tuple) else (result,))
        for index, made in enumerate(results, first):
            tensor = layer.get_output(index)
            array = np.asarray(made).astype(self._numpy(tensor.dtype))
            assert all(want in (-1, got) for want, got in zip(tensor.shape, array.shape, strict=True)), layer.name
            self.values[tensor] = array

    def _inputs(self, layer: Any) -> list[Array | None]:
        tensors = [layer.get_input(i) for i in range(layer.num_inputs)]
        return [None if t is None else self.values[t] for t in tensors]

    def _constant(self, layer: Any) -> Array:
        return self.constants[layer.name].reshape(tuple(layer.shape))

    def _elementwise(self, layer: Any, a: Array, b: Array) -> Array:
        assert a.ndim == b.ndim and a.dtype == b.dtype, layer.name
        return ELEMENTWISE[layer.op.name](wide(a), wide(b))

    def _unary(self, layer: Any, x: Array) -> Array:
        return UNARY[layer.op.name](wide(x))

    def _activation(self, layer: Any, x: Array) -> Array:
        return ACTIVATION[layer.type.name](wide(x))

    def _cast(self, layer: Any, x: Array) -> Array:
        return x.astype(self._numpy(layer.to_type))

    def _identity(self, layer: Any, x: Array) -> Array:
        return x

    def _select(self, layer: Any, condition: Array, a: Array, b: Array) -> Array:
        return np.where(condition, a, b)

    def _shape(self, layer: Any, x: Array) -> Array:
        return np.array(x.shape, np.int64)

    def _shuffle(self, layer: Any, x: Array, shape: Array | None = None) -> Array:
        order = tuple(layer.first_transpose)[: x.ndim]
        assert tuple(layer.second_transpose) == tuple(range(8)), layer.name
        x = x.transpose(order)
        if shape is not None:
            return x.reshape(tuple(shape))
        if layer.reshape_dims is None:
            return x
        return x.reshape([x.shape[i] if d == 0 else d for i, d in enumerate(tuple(layer.reshape_dims))])

    def _slice(self, layer: Any, x: Array, start: Any = None, size: Any = None, stride: Any = None) -> Array:
        start, size = layer.start if start is None else start, layer.shape if size is None else size
        stride = layer.stride if stride is None else stride
        for axis, (first, count, step) in enumerate(zip(start, size, stride, strict=True)):
            x = np.take(x, [first + step * n for n in range(count)], axis)
        return x

    def _concatenation(self, layer: Any, *parts: Array) -> Array:
        return np.concatenate(parts, layer.axis)

    def _gather(self, layer: Any, x: Array, indices: Array) -> Array:
        assert layer.mode == self.trt.GatherMode.DEFAULT and 0 <= indices.min() <= indices.max() < x.shape[layer.axis]
        if layer.num_elementwise_dims:
            return np.stack([np.take(a, i, layer.axis - 1) for a, i in zip(x, indices, strict=True)])
        return np.take(x, indices, layer.axis)

    def _matrix_multiply(self, layer: Any, a: Array, b: Array) -> Array:
        assert a.ndim == b.ndim and a.dtype == b.dtype, layer.name
        a, b = (
            x.swapaxes(-1, -2) if op == self.trt.MatrixOperation.TRANSPOSE else x
            for x, op in ((wide(a), layer.op0), (wide(b), layer.op1))
        )
        return np.matmul(a, b)

    def _reduce(self, layer: Any, x: Array) -> Array:
        axes = tuple(i for i in range(x.ndim) if layer.axes >> i & 1)
        return REDUCE[layer.op.name](wide(x), axis=axes, keepdims=layer.keep_dims)

    def _softmax(self, layer: Any, x: Array) -> Array:
        axis = layer.axes.bit_length() - 1
        e = np.exp(wide(x) - wide(x).max(axis, keepdims=True))
        return e / e.sum(axis, keepdims=True)

    def _topk(self, layer: Any, x: Array) -> Array:
        assert layer.op == self.trt.TopKOperation.MAX and layer.axes == 1 << (x.ndim - 1)
        return np.argsort(-wide(x), -1, kind="stable")[..., : layer.k]

    def _fill(self, layer: Any, shape: Array, alpha: Array, beta: Array) -> Array:
        assert layer.operation == self.trt.FillOperation.LINSPACE and len(shape) == 1
        return alpha + beta * np.arange(int(shape[0]))

    def _rotary_embedding(self, layer: Any, x: Array, cos: Array, sin: Array) -> Array:
        turn, c, s = layer.rotary_embedding_dim or x.shape[-1], wide(cos)[:, None], wide(sin)[:, None]
        assert cos.shape == (x.shape[0], x.shape[2], turn // 2), layer.name
        y = wide(x).copy()
        first, second = (slice(0, turn, 2), slice(1, turn, 2)) if layer.interleaved else (
            slice(0, turn // 2), slice(turn // 2, turn))   # fmt: skip
        a, b = y[..., first].copy(), y[..., second].copy()
        y[..., first], y[..., second] = a * c - b * s, a * s + b * c
        return y

    def _kv_cache_update(self, layer: Any, cache: Array, update: Array, start: Array, *_: Any) -> Array:
        assert layer.cache_mode == self.trt.KVCacheMode.LINEAR
        result = cache.copy()
        for b, new in enumerate(self._sequences(update, getattr(layer, "update_lengths", None))):
            first, tokens = int(start[b]), new.shape[1]
            assert 0 <= first <= cache.shape[2] - tokens, f"{layer.name} writes {first} + {tokens}"
            result[b, :, first : first + tokens] = new
        return result

    def _sequences(self, x: Array, ends: Any) -> list[Array]:
        """Each sequence's [heads, tokens, size], of [B, heads, tokens, size]; or of [T, heads, size], if packed."""
        if ends is None:
            return list(x)
        starts = self.values[ends]
        assert starts[0] == 0 and starts[-1] == len(x)
        return [x[first:last].swapaxes(0, 1) for first, last in pairwise(starts)]

    def _attention_output(self, layer: Any) -> Array:
        a = getattr(layer, "attention", layer)
        q, k, v = (wide(self.values[a.get_input(i)]) for i in range(3))
        lengths, causal = getattr(a, "key_value_lengths", None), a.causal
        if hasattr(self.trt, "CausalMaskKind"):
            causal = {"NONE": False, "LOWER_RIGHT": True}[a.causal_kind.name]
        lengths = np.full(len(k), k.shape[2]) if lengths is None else self.values[lengths]
        ends, mask = getattr(a, "query_lengths", None), a.mask
        assert ends is None or a.query_form == self.trt.AttentionIOForm.PACKED_NHD
        if mask is not None:
            assert not causal and self.values[mask].dtype == np.bool_
            mask = np.broadcast_to(self.values[mask], (len(q), q.shape[1], q.shape[2], k.shape[2]))
        rows = [
            _attended(one, k[b], v[b], int(lengths[b]), causal, None if mask is None else mask[b])
            for b, one in enumerate(self._sequences(q, ends))
        ]
        return np.stack(rows) if ends is None else np.concatenate([row.swapaxes(0, 1) for row in rows])

    def _moe(self, layer: Any, x: Array, chosen: Array, shares: Array, gate: Array, up: Array, down: Array) -> Array:
        assert layer.activation_type == self.trt.MoEActType.SILU and x.shape[:2] == chosen.shape[:2] == shares.shape[:2]
        y = np.zeros(x.shape, np.float32)
        for place in np.ndindex(chosen.shape):
            token, (fc, gated, proj) = wide(x[place[:2]]), (wide(w[chosen[place]]) for w in (gate, up, down))
            inner = token @ fc
            y[place[:2]] += wide(shares[place]) * ((inner / (1 + np.exp(-inner)) * (token @ gated)) @ proj)
        return y

    def _plugin_v3(self, layer: Any, *inputs: Array) -> Any:
        """what its op means, for which the kernel is there"""
        op = self.emit.diagnostics.owners[layer.name]
        call = call_of(op, self.emit.architecture)
        assert isinstance(call, Call)
        given = {op.operands[name]: array for name, array in zip(call.operands, inputs, strict=True)}
        return op.evaluate(*op.arguments(given))   # type: ignore[attr-defined]

    def _dist_collective(self, layer: Any, x: Array) -> Array:
        """as the stand-in has recorded it: TensorRT's own layer does not tell"""
        told, kinds = layer.held, (layer.held["dist_collective_op"].name, layer.held["reduce_op"].name)
        assert told["root"] == -1 and layer.num_ranks == len(told["groups"])
        parts, place = met(tuple(told["groups"]), x)
        if kinds == ("ALL_GATHER", "NONE"):
            return np.concatenate(parts)
        total: Array = np.sum([wide(part) for part in parts], axis=0)
        return {("ALL_REDUCE", "SUM"): [total] * len(parts), ("REDUCE_SCATTER", "SUM"): np.split(total, len(parts))}[
            kinds
        ][place]


def _attended(q: Array, k: Array, v: Array, length: int, causal: bool, mask: Array | None) -> Array:
    """Attention of one sequence: of q[Hq, S, D] to k[Hkv, T, D] and v[Hkv, T, E]."""
    group = len(q) // len(k)
    scores = np.matmul(q, np.repeat(k, group, 0).swapaxes(-1, -2))
    tokens = int(q.shape[1])
    token: Array = np.arange(tokens)[:, None]
    key: Array = np.arange(int(k.shape[1]))
    visible: Array = (key < length) & ((key <= token + length - tokens) if causal else True)
    scores = np.where(visible if mask is None else visible & mask, scores, -np.inf)
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return np.matmul(e / e.sum(-1, keepdims=True), np.repeat(v, group, 0))
