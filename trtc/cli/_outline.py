"""What an engine is or would be, in a few lines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from trtc.cli._table import amount

if TYPE_CHECKING:
    from trtc.ir.graph import Graph
    from trtc.ir.op import Value
    from trtc.runtime.bundle import Tensor

LAYER = re.compile(r"(?<=^layers\.)\d+(?=\.)")


def outline(
    graph: Graph, *, target: str, architecture: str, dtype: str, limits: Mapping[str, int], cache: Mapping[str, Any],
    pipeline: str,
) -> list[tuple[str, str]]:   # fmt: skip
    """Pairs of a word and what is to be said of it."""
    batch, tokens = limits["max_batch_size"], limits["max_seq_len"]
    per_token: int = cache["bytes_per_token"]
    sizes = " and ".join(dict.fromkeys(str(cache[key]) for key in ("head_size", "value_head_size")))
    layout = f"{cache['dtype']}, {cache['layers']} layers, {cache['kv_heads']} heads of {sizes}"
    layout += f", in pages of {cache['page']} tokens" if cache["page"] else ""
    return [
        ("target", target),
        ("model", f"{architecture}, {parameters(graph):,} parameters, {dtype}"),
        ("limits", f"{batch} sequences, {limits['max_input_len']} new tokens a call, {tokens} tokens in all"),
        ("cache", f"{layout}: {per_token:,} bytes a token, {amount(batch * tokens * per_token)} at most"),
        ("pipeline", pipeline),
    ]


def parameters(graph: Graph) -> int:
    """The elements of all weights."""
    from trtc.ir.ops import Weight

    return sum({op.key: op.type.numel() for op in graph.ops if isinstance(op, Weight)}.values())


def op_counts(graph: Graph) -> list[tuple[str, int, int]]:
    """For each kind of op that runs: its name, how many there are, and the bytes of weights that they read.

    Weights that are read several times count at the first op; those that are widened as they are read, as stored.
    """
    from trtc.ir.op import Result, Value
    from trtc.ir.ops import Constant, Input

    counts, sizes, seen = Counter[str](), Counter[str](), set[Value]()
    for op in graph.ops:
        if graph.is_constant(op) or isinstance(op, Input | Result):
            continue
        counts[op.name] += 1
        for value in op.operands.values():
            literal = isinstance(value, Constant) and value.type.numel() == 1
            if graph.is_constant(value) and value not in seen and not literal:
                seen.add(value)
                sizes[op.name] += _stored(value).type.nbytes()
    return [(name, count, sizes[name]) for name, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))]


def _stored(value: Value) -> Value:
    from trtc.ir.ops import Cast

    while isinstance(value, Cast) and value.x.dtype.bits < value.dtype.bits:
        value = value.x
    return value


def tensor_rows(tensors: Iterable[Tensor]) -> list[tuple[str, str, str]]:
    """Name, type and alias of each tensor; those of all layers in one row."""
    layers: dict[tuple[str, str, str], list[str]] = {}
    for t in tensors:
        of = f"{t.dtype}[{', '.join(map(str, t.shape))}]"
        number = LAYER.search(t.name)
        name, alias = (LAYER.sub("*", text) for text in (t.name, t.alias or ""))
        layers.setdefault((name, of, f"updates {alias}" if alias else ""), []).append(number[0] if number else "")
    rows: list[tuple[str, str, str]] = []
    for (name, of, alias), numbers in layers.items():
        span = f"{{{numbers[0]}..{numbers[-1]}}}" if len(numbers) > 1 else numbers[0]
        rows.append((name.replace("*", span), of, alias.replace("*", span)))
    return rows
