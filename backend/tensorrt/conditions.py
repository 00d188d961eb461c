"""Under what condition a version of TensorRT takes an op as it is; the first line of each docstring says it."""

from __future__ import annotations

from collections.abc import Mapping

from trtc.backend.kernels import KERNELS
from trtc.backend.tensorrt.api import Api
from trtc.backend.tensorrt.attention_rules import ALIGNED, odd_heads
from trtc.backend.tensorrt.plugins import FEATURE, is_kernels, refuses
from trtc.ir import ops as o
from trtc.ir.op import Op
from trtc.ir.target import Condition, always, stated
from trtc.ir.types import DType, bf16, bool_, f16, f32, i32, i64

MAX_RANK = 8
MOST = 3840   # elements that a layer finds the greatest of


def floats(api: Api) -> tuple[DType, ...]:
    """The element types that it computes in."""
    return (f32, f16, bf16) if api.has("bf16") else (f32, f16)


def numbers(api: Api) -> tuple[DType, ...]:
    return (*floats(api), i32, i64) if api.has("i64") else (*floats(api), i32)


def of(*dtypes: DType) -> Condition:
    """The condition that every operand has one of these element types, and a rank that tensors may have."""

    @stated(f"its operands are {spelt(dtypes)}, of rank {MAX_RANK} at most")
    def condition(op: Op) -> str | None:
        for name, value in op.operands.items():
            if value.dtype not in dtypes:
                return f"{name} is {value.dtype}, but must be {spelt(dtypes)}"
        return None if op.type.rank <= MAX_RANK else f"it has rank {op.type.rank}, but must have {MAX_RANK} at most"

    return condition


def spelt(dtypes: tuple[DType, ...]) -> str:
    return " or ".join(map(str, dtypes))


def since(api: Api, feature: str, condition: Condition) -> Condition:
    """The condition where the API has a feature; elsewhere the op is never taken."""
    if reason := api.lacks(feature):
        missing = api.missing(feature)
        words = f"never: it has no {feature}{missing}" if missing else f"never here: {reason}"
        return stated(words)(lambda op: reason)
    return condition


def casts(api: Api) -> Condition:
    dtypes = (*numbers(api), bool_)
    operands = of(*dtypes)

    @stated(f"it casts between {spelt(dtypes)}")
    def condition(op: o.Cast) -> str | None:
        return operands(op) or (None if op.to in dtypes else f"it makes {op.to}, but must make {spelt(dtypes)}")

    return condition


def looks_up(api: Api) -> Condition:
    dtypes, indices = (*numbers(api), bool_), tuple(d for d in numbers(api) if d.kind == "int")

    @stated(f"it looks up {spelt(dtypes)} by {spelt(indices)}, in one batch axis at most")
    def condition(op: o.Gather) -> str | None:
        if op.x.dtype not in dtypes or op.indices.dtype not in indices:
            return f"it looks up {op.x.dtype} by {op.indices.dtype}, but must look up numbers by {spelt(indices)}"
        return None if op.batch <= 1 else f"batch is {op.batch}, but must be 0 or 1"

    return condition


def embeds(api: Api) -> Condition:
    indices = tuple(d for d in numbers(api) if d.kind == "int")

    @stated(f"it looks up {spelt(floats(api))} by {spelt(indices)}")
    def condition(op: o.Embedding) -> str | None:
        if op.table.dtype not in floats(api) or op.ids.dtype not in indices:
            return f"it looks up {op.table.dtype} by {op.ids.dtype}, but must look up floats by {spelt(indices)}"
        return None

    return condition


def updates(api: Api) -> Condition:
    @stated(f"the cache is an input, {spelt(floats(api))}, whose capacity is a number")
    def condition(op: o.KVCacheUpdate | o.PackedKVCacheUpdate) -> str | None:
        if op.cache.dtype not in floats(api):
            return f"the cache is {op.cache.dtype}, but must be {spelt(floats(api))}"
        if not isinstance(op.cache, o.Input):
            return "the cache is not an input of the graph"
        capacity = op.cache.shape[2]
        return None if isinstance(capacity, int) else f"the capacity is {capacity}, but must be a number"

    return since(api, "KV cache update layers", condition)


def chooses(api: Api) -> Condition:
    operands = of(*floats(api))

    @stated(f"x is {spelt(floats(api))}, and k at most {MOST}")
    def condition(op: o.TopK) -> str | None:
        return operands(op) or (None if op.k <= MOST else f"k is {op.k}, but must be {MOST} at most")

    return condition


def attends(api: Api) -> Condition:
    lengths = api.has("attention over lengths")
    form = "lengths and causal, or one mask" if lengths else "one mask or none, and neither lengths nor causal"

    @stated(
        f"q, k and v are {spelt(floats(api))} of one head size (16-bit ones: a multiple of {ALIGNED}), with {form}, "
        "without softcap, window and slopes"
    )
    def condition(op: o.Attention) -> str | None:
        if op.q.dtype not in floats(api):
            return f"q is {op.q.dtype}, but must be {spelt(floats(api))}"
        if op.softcap:
            return f"softcap is {op.softcap:g}, but must be 0"
        if op.slopes:
            return "its scores have slopes"
        if op.q.shape[3] != op.v.shape[3]:
            return f"q has head size {op.q.shape[3]}, but v has {op.v.shape[3]}"
        if odd_heads(op):
            return f"q has 16-bit heads of {op.q.shape[3]}, but must have a multiple of {ALIGNED}"
        if op.window:
            return f"window is {op.window}, but must be 0"
        if not lengths and (op.causal or op.lengths):
            return api.lacks("attention over lengths")
        return "a mask stands beside causal or lengths" if op.mask and (op.causal or op.lengths) else None

    return since(api, "attention layers", condition)


def attends_packed(api: Api) -> Condition:
    form = f"of one head size, a multiple of {ALIGNED}, without softcap, window and slopes"

    @stated(f"q, k and v are {spelt(floats(api))} {form}")
    def condition(op: o.PackedAttention) -> str | None:
        head = op.q.shape[2]
        if op.q.dtype not in floats(api):
            return f"q is {op.q.dtype}, but must be {spelt(floats(api))}"
        if op.softcap or op.window or op.slopes:
            return "its scores have a softcap, a window or slopes"
        if head != op.v.shape[3]:
            return f"q has head size {head}, but v has {op.v.shape[3]}"
        fits = isinstance(head, int) and head % ALIGNED == 0
        return None if fits else f"q has heads of {head}, but must have a multiple of {ALIGNED}"

    return since(api, "attention over packed tokens", condition)


def exchanges(api: Api) -> Condition:
    @stated(f"x is {spelt(floats(api))}, and several ranks are in the group")
    def condition(op: o.Collective) -> str | None:
        if len(op.group) == 1:
            return "one rank has nothing to exchange"
        return None if op.x.dtype in floats(api) else f"x is {op.x.dtype}, but must be {spelt(floats(api))}"

    return since(api, "collective layers", condition)


def mixes(api: Api) -> Condition:
    return since(api, "mixture-of-experts layers", of(*floats(api), i32))


def launches(api: Api) -> Condition:
    @stated("a kernel of trtc or of a loaded file serves it on the GPU that the target names")
    def condition(op: Op) -> str | None:
        return refuses(op, api)

    return since(api, FEATURE, condition)


def conditions(api: Api) -> Mapping[type[Op], Condition]:
    """For each kind of op that there is a lowering of, when this API takes it."""
    computed, counted, anything = of(*floats(api)), of(*numbers(api)), of(*numbers(api), bool_)
    groups: dict[Condition, tuple[type[Op], ...]] = {
        counted: (o.Add, o.Sub, o.Mul, o.Maximum, o.Minimum, o.Less, o.LessEqual, o.ReduceSum, o.ReduceMax),
        computed: (
            o.Div, o.Pow, o.Neg, o.Exp, o.Sqrt, o.Reciprocal, o.Tanh, o.Sigmoid, o.Erf, o.Cos, o.Sin, o.ReLU,
            o.ReduceMean, o.Softmax, o.MatMul, o.Linear,
        ),
        anything: (o.Where, o.Reshape, o.Broadcast, o.Transpose, o.Slice, o.Concat),
        of(bool_): (o.And,),
        always: (o.Iota, o.SizeOf),
    }   # fmt: skip
    return {kind: condition for condition, kinds in groups.items() for kind in kinds} | {
        o.Cast: casts(api), o.Gather: looks_up(api), o.Embedding: embeds(api), o.TopK: chooses(api),
        o.GELU: since(api, "GELU layers", computed), o.Rope: since(api, "rotary embedding layers", computed),
        o.KVCacheUpdate: updates(api), o.Attention: attends(api), o.PackedAttention: attends_packed(api),
        o.PackedKVCacheUpdate: since(api, "attention over packed tokens", updates(api)), o.Experts: mixes(api),
        **dict.fromkeys((o.AllReduce, o.AllGather, o.ReduceScatter), exchanges(api)),
        **dict.fromkeys(filter(is_kernels, KERNELS), launches(api)),
    }   # fmt: skip
