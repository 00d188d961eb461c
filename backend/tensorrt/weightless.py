"""Plans without weights: one for every checkpoint of a shape, whose weights are inputs and lie in a file beside it."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np

from trtc.backend.bundle import BundleWriter, Progress, silent
from trtc.backend.tensorrt.weights import weights
from trtc.ir.graph import Graph
from trtc.ir.materialize import Stored, stream, weights_of
from trtc.ir.op import Array, Value
from trtc.ir.ops import Input

CODES = {
    "f32": "F32", "f16": "F16", "bf16": "BF16", "f8e4m3": "F8_E4M3", "i64": "I64", "i32": "I32", "i8": "I8", "u8": "U8",
    "bool": "BOOL",
}   # fmt: skip
"""The names of element types in safetensors files."""


def input_name(name: str) -> str:
    """The input that stands for a weight, in the letters that the names of inputs have.

    >>> input_name("layers.0.attention.q+k+v.weight")
    'layers.0.attention.q_k_v.weight'
    """
    return re.sub(r"[^\w.]", "_", name)


def without_weights(graph: Graph) -> Graph:
    """The graph with an input in place of each weight that its engine would store, after its own inputs."""
    inputs = {item.value: Input(input_name(item.name), item.value.type) for item in weights(graph)}
    new: dict[Value, Value] = {**inputs}
    return replace(graph.replace(new), inputs=(*graph.inputs, *inputs.values()))


def write_weights(
    bundle: BundleWriter,
    name: str,
    stored: Iterable[Stored],
    tensors: Mapping[str, Array],
    *,
    threads: int = 2,
    progress: Progress = silent,
    release: Callable[[str], None] = lambda _: None,
) -> None:
    """Write weights, in this order, to a safetensors file of the bundle; each is let go of as it is written."""
    items = list(stored)
    end, entries = 0, dict[str, object]()
    for item in items:
        start, end = end, end + item.value.type.nbytes()
        of = item.value.type
        entries[item.name] = {"dtype": CODES[of.dtype.name], "shape": of.shape, "data_offsets": (start, end)}
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    done = 0
    with bundle.open(name) as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for item, array in stream(items, tensors, threads=threads, release=release):
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            done += item.value.type.nbytes()
            progress("weights file", done, end)
            for key in weights_of(item.value):
                release(key)


def said_of(graph: Graph, file: str, use: str) -> dict[str, object]:
    """What engine.json says of a file of weights: where it is, what it is for, and the tensor of each name there.

    Args:
        use: ``inputs``: each is bound to the input of its name; ``refit``: the plan is refitted with them by name.
    """
    names = (item.name for item in weights(graph))
    return {"file": file, "use": use, "tensors": {input_name(n) if use == "inputs" else n: n for n in names}}
