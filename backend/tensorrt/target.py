"""What TensorRT-RTX takes natively, and under what condition."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata

from trtc.backend.tensorrt.plugins import ALIGNED, mask_attention, odd_heads, pad_heads, pad_values
from trtc.ir.errors import IRError
from trtc.ir.op import Op
from trtc.ir.ops import (
    GELU,
    Add,
    And,
    Attention,
    Broadcast,
    Cast,
    Concat,
    Cos,
    Div,
    Embedding,
    Erf,
    Exp,
    Gather,
    Input,
    Iota,
    KVCacheUpdate,
    Less,
    LessEqual,
    Linear,
    MatMul,
    Maximum,
    Minimum,
    Mul,
    Neg,
    Pow,
    Reciprocal,
    ReduceMax,
    ReduceMean,
    ReduceSum,
    ReLU,
    Reshape,
    Rope,
    Sigmoid,
    Sin,
    SizeOf,
    Slice,
    Softmax,
    Sqrt,
    Sub,
    Tanh,
    TopK,
    Transpose,
    Where,
)  # fmt: skip
from trtc.ir.target import TARGETS, UNAVAILABLE, Condition, Target, always
from trtc.ir.types import DType, bf16, bool_, f16, f32, i32, i64

RTX_VERSION = "1.7"   # what this record was written for
DISTRIBUTIONS = ("tensorrt_rtx_cu13_bindings", "tensorrt_rtx_cu12_bindings")
FLOATS = (f32, f16, bf16)
NUMBERS = (*FLOATS, i32, i64)
MAX_RANK = 8
MOST = 3840   # elements that a layer finds the greatest of


def of(*dtypes: DType) -> Condition:
    """The condition that every operand has one of these element types, and a rank that tensors may have."""

    def condition(op: Op) -> str | None:
        for name, value in op.operands.items():
            if value.dtype not in dtypes:
                return f"{name} is {value.dtype}, but must be {' or '.join(map(str, dtypes))}"
        return None if op.type.rank <= MAX_RANK else f"it has rank {op.type.rank}, but must have {MAX_RANK} at most"

    return condition


def _cast(op: Cast) -> str | None:
    reason = of(*NUMBERS, bool_)(op)
    return reason or (None if op.to in (*NUMBERS, bool_) else f"it makes {op.to}, but must make numbers or bool")


def _gather(op: Gather) -> str | None:
    if op.x.dtype not in (*NUMBERS, bool_) or op.indices.dtype not in (i32, i64):
        return f"it looks up {op.x.dtype} by {op.indices.dtype}, but must look up numbers by i32 or i64"
    return None if op.batch <= 1 else f"batch is {op.batch}, but must be 0 or 1"


def _embedding(op: Embedding) -> str | None:
    if op.table.dtype not in FLOATS or op.ids.dtype not in (i32, i64):
        return f"it looks up {op.table.dtype} by {op.ids.dtype}, but must look up floats by i32 or i64"
    return None


def _cache_update(op: KVCacheUpdate) -> str | None:
    if op.cache.dtype not in FLOATS:
        return f"the cache is {op.cache.dtype}, but must be {' or '.join(map(str, FLOATS))}"
    if not isinstance(op.cache, Input):
        return "the cache is not an input of the graph"
    capacity = op.cache.shape[2]
    return None if isinstance(capacity, int) else f"the capacity is {capacity}, but must be a number"


def _top_k(op: TopK) -> str | None:
    reason = of(*FLOATS)(op)
    return reason or (None if op.k <= MOST else f"k is {op.k}, but must be {MOST} at most")


def _attention(op: Attention) -> str | None:
    if op.q.dtype not in FLOATS:
        return f"q is {op.q.dtype}, but must be {' or '.join(map(str, FLOATS))}"
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
    return "a mask stands beside causal or lengths" if op.mask and (op.causal or op.lengths) else None


def _native() -> Mapping[type[Op], Condition]:
    floats, numbers, anything = of(*FLOATS), of(*NUMBERS), of(*NUMBERS, bool_)
    conditions: dict[Condition, tuple[type[Op], ...]] = {
        numbers: (Add, Sub, Mul, Maximum, Minimum, Less, LessEqual, ReduceSum, ReduceMax),
        floats: (
            Div, Pow, Neg, Exp, Sqrt, Reciprocal, Tanh, Sigmoid, Erf, Cos, Sin, ReLU, GELU, ReduceMean, Softmax, MatMul,
            Linear, Rope,
        ),
        anything: (Where, Reshape, Broadcast, Transpose, Slice, Concat),
        of(bool_): (And,),
        always: (Iota, SizeOf),
    }   # fmt: skip
    native: dict[type[Op], Condition] = {kind: condition for condition, kinds in conditions.items() for kind in kinds}
    return native | {
        Cast: _cast, Gather: _gather, Embedding: _embedding, KVCacheUpdate: _cache_update, Attention: _attention,
        TopK: _top_k,
    }   # fmt: skip


def installed_version() -> str:
    """The version of the TensorRT-RTX that is installed, without loading it; empty where none is."""
    for name in DISTRIBUTIONS:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return ""


def tensorrt_rtx(version: str) -> Target:
    """The record of TensorRT-RTX in a version; the installed one, or else the newest known, for an empty one."""
    found = installed_version() or RTX_VERSION
    if not f"{found}.".startswith(f"{version}." if version else ""):
        note = f"help: pip install 'tensorrt-rtx-cu13-bindings=={version}.*'"
        raise IRError(f"target tensorrt-rtx is {found} here, but {version} is asked for", note)
    return Target(
        name="tensorrt-rtx",
        version=found,
        summary="TensorRT-RTX plans: built on any machine, run on GeForce RTX and RTX PRO GPUs.",
        native=_native(),
        plugins=((mask_attention, pad_values, pad_heads),),
        fixed=("M",),
    )


TARGETS["tensorrt-rtx"] = tensorrt_rtx
UNAVAILABLE["tensorrt"] = "--target tensorrt-rtx builds plans for RTX GPUs, --target onnx runs on any CPU"
