"""Rules to the ops that kernels compute, for any number of tokens; `phase_rules` has those of one phase."""

from __future__ import annotations

from collections.abc import Mapping

from trtc.backend.cuda.weight_only import weight_only
from trtc.backend.heads import Turned, before_rope, flat_heads
from trtc.backend.kernels.ops import Gated, RopeAndAppend, capped_linear, experts_in_two
from trtc.ir.graph import Graph
from trtc.ir.op import Op, Value
from trtc.ir.ops import (
    GELU,
    Concat,
    Input,
    KVCacheUpdate,
    Linear,
    Mul,
    ReLU,
    Reshape,
    SiLU,
    Slice,
    SwiGLU,
    Transpose,
)  # fmt: skip
from trtc.ir.types import Size
from trtc.passes.rewrite import Skip


def rope_and_append(op: KVCacheUpdate, graph: Graph) -> Mapping[Value, Value] | Skip | None:
    """rope(q), update(cache, rope(k)), update(cache, v)  ->  rope_and_append(q+k+v)

    It starts at the update of the keys: the values' is the other that the same attention reads, and so is q.
    """
    readers = [u for u in graph.users[op] if type(u).name == "attention" and u.operands["k"] is op]
    if len(readers) != 1:
        return None
    q, values = readers[0].operands["q"], readers[0].operands["v"]
    if not isinstance(values, KVCacheUpdate):
        return None
    if why := _unfit(op, values, q):
        return Skip(why)
    turned, k = before_rope(q), before_rope(op.new)
    if not turned.is_turned_as(k) or turned.start is not op.start:
        turned, k = Turned(q), Turned(op.new)
    batch, heads, tokens, size = q.shape
    fused = RopeAndAppend(
        Concat(tuple(flat_heads(x) for x in (turned.x, k.x, values.new)), 2), op.cache, values.cache, op.start,
        turned.cos, turned.sin, heads=_int(heads), kv_heads=_int(op.new.shape[1]), interleaved=turned.interleaved,
    )   # fmt: skip
    whole = Transpose(Reshape(fused, (batch, tokens, heads, size)), (0, 2, 1, 3))
    return {q: whole, op: fused.results[1], values: fused.results[2]}


def _unfit(keys: KVCacheUpdate, values: KVCacheUpdate, q: Value) -> str | None:
    if keys.cache.type != values.cache.type or q.shape[3] != keys.cache.shape[3]:
        return f"q is {q.type}, and the caches are {keys.cache.type} and {values.cache.type}"
    if not isinstance(keys.cache, Input) or not isinstance(values.cache, Input) or keys.start is not values.start:
        return "its caches are no inputs of the graph, or are updated from different positions"
    same = keys.new.shape[2] == q.shape[2] == values.new.shape[2]
    return None if same else f"q has {q.shape[2]} tokens, but {keys.new.shape[2]} are new"


def _int(size: Size) -> int:
    assert isinstance(size, int)
    return size


def swiglu(op: SwiGLU, graph: Graph) -> Value | None:
    """swiglu(slice(x), slice(x))  ->  gated(x), where they are the halves"""
    return _gated(op.gate, op.up, "silu", graph)


def gated_product(op: Mul, graph: Graph) -> Value | None:
    """gelu(slice(x)) * slice(x)  ->  gated(x), where they are the halves"""
    for active, up in ((op.a, op.b), (op.b, op.a)):
        kind = _activation(active)
        if kind and isinstance(active, Op) and (found := _gated(active.operands["x"], up, kind, graph)):
            return found
    return None


def _activation(value: Value) -> str:
    match value:
        case GELU(_, tanh):
            return "gelu_tanh" if tanh else "gelu"
        case SiLU():
            return "silu"
        case ReLU():
            return "relu"
        case _:
            return ""


def _gated(gate: Value, up: Value, activation: str, graph: Graph) -> Value | None:
    if not isinstance(gate, Slice) or not isinstance(up, Slice) or gate.x is not up.x:
        return None
    x, half = gate.x, gate.size
    if not gate.axis == up.axis == x.type.rank - 1 or not up.size == half == _int(x.shape[-1]) // 2:
        return None
    if (gate.start, up.start) == (0, half):
        return Gated(x, activation)
    alone = set(graph.users[x]) == {gate, up} and not is_output(x, graph)
    swaps = alone and (gate.start, up.start) == (half, 0)
    if swaps and isinstance(x, Linear) and graph.is_constant(x.weight):   # the halves change places
        return Gated(Linear(x.x, _swapped(x.weight), _swapped(x.bias) if x.bias else None, loc=x.loc), activation)
    return None


def is_output(value: Value, graph: Graph) -> bool:
    """Whether a value is given out."""
    return any(value is output for output in graph.outputs.values())


def _swapped(rows: Value) -> Value:
    half = _int(rows.shape[0]) // 2
    return Concat((Slice(rows, 0, half, half), Slice(rows, 0, 0, half)), 0)



STAGES = ((rope_and_append, swiglu, gated_product, capped_linear, experts_in_two), (weight_only,))
