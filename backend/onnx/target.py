"""The target `onnx`: what ONNX Runtime runs on a CPU."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

from trtc.backend.onnx import ops
from trtc.backend.onnx.plugins import STAGES
from trtc.ir import ops as ir
from trtc.ir.errors import IRError
from trtc.ir.op import Op
from trtc.ir.target import TARGETS, Condition, Target, always, stated
from trtc.ir.types import bf16, f16, f32

OLDEST = "1.24"   # the first ONNX Runtime that runs opset 24


def _dtype(op: Op) -> str | None:
    """floats are f32, which narrower ones are widened to before"""
    return None if op.dtype == f32 or not op.dtype.is_float else f"it has no {op.dtype} kernel of {op.name}"


PLAIN: tuple[type[Op], ...] = (
    ir.Add, ir.Sub, ir.Mul, ir.Div, ir.Pow, ir.Maximum, ir.Minimum, ir.Less, ir.LessEqual, ir.And, ir.Where,
    ir.Neg, ir.Exp, ir.Sqrt, ir.Reciprocal, ir.Tanh, ir.Sigmoid, ir.Erf, ir.Cos, ir.Sin, ir.ReLU, ir.SiLU, ir.GELU,
    ir.ReduceSum, ir.ReduceMean, ir.ReduceMax, ir.Softmax, ir.MatMul, ir.Linear,
    ir.RMSNorm, ir.LayerNorm, ir.Rope, ops.GroupQueryAttention, ops.SkipRMSNorm, ops.MoE,
)   # fmt: skip
MOVES: tuple[type[Op], ...] = (
    ir.Cast, ir.Reshape, ir.Broadcast, ir.Transpose, ir.Slice, ir.Concat, ir.Gather, ir.Embedding, ir.Iota,
    ir.SizeOf, ir.KVCacheUpdate,
)   # fmt: skip
NATIVE: dict[type[Op], Condition] = {
    **dict.fromkeys(PLAIN, _dtype),
    **dict.fromkeys(MOVES, always),
    ir.TopK: stated("x is f32")(lambda op: _dtype(op.x)),
}


def onnx(wanted: str) -> Target:
    """ONNX Runtime in a version; the installed one where none is stated.

    Engines take one limit more than their bounds: several new tokens on top of caches that are not empty go one
    sequence at a time (ONNX Runtime's attention kernel refuses them for a batch). Prefill and decode do not meet it.
    """
    try:
        found = wanted or version("onnxruntime")
    except PackageNotFoundError:
        found = OLDEST
    if not re.match(r"\d+(\.\d+)*", found):
        raise IRError(f"the version of target onnx is {found}, but must be numbers", f"help: onnx:{OLDEST}")
    if _numbers(found) < _numbers(OLDEST):
        note = "help: pip install --upgrade onnxruntime"
        raise IRError(f"target onnx is {found}, but must be {OLDEST} or newer, which run opset 24", note)
    summary = "ONNX for ONNX Runtime on a CPU, with its contrib kernels; f16 and bf16 weights, f32 arithmetic"
    return Target("onnx", found, summary, NATIVE, STAGES, widened={f16: f32, bf16: f32})


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


TARGETS["onnx"] = onnx
