"""Kernels of mixtures of experts."""

from __future__ import annotations

from trtc.backend.kernels.kernel import kernel
from trtc.backend.kernels.launch import Launch, Scalar, ceildiv, count, operand, product, result, text
from trtc.backend.kernels.ops import ExpertsInner, ExpertsOuter, Route
from trtc.backend.kernels.rules import fixed, float_type, last_axis, vector
from trtc.ir.op import Value
from trtc.ir.types import Size, bf16, f16


def _routed(op: Route) -> str | None:
    why = last_axis(op.logits)
    if why is None and (fixed(op.logits.shape[1]) > 1024 or op.k > 32):
        return f"it takes {op.k} of {op.logits.shape[1]} experts, but must take 32 of 1,024 at most"
    return why


@kernel("route.cu", _routed)
def route(op: Route) -> Launch:
    """A warp chooses for one token."""
    tokens, experts = op.logits.shape
    defines = {
        "T": op.logits.dtype.name, "EXPERTS": fixed(experts), "PICKS": op.k, "NORMALISED": int(op.normalised),
        "WARPS": 4,
    }   # fmt: skip
    arguments = (operand("logits"), result(), result(1), count(tokens))
    return Launch("route", defines, (ceildiv(tokens, 4), 1, 1), (128, 1, 1), arguments)


def _static(x: Value, weight: Value, chosen: Value) -> str | None:
    if not weight.type.static or not isinstance(chosen.shape[1], int):
        return f"its weights are {weight.type} and its choice {chosen.type}, but their sizes must be known"
    return float_type(x)


def _skinny(x: Value, weight: Value, chosen: Value) -> str | None:
    if x.dtype not in (f16, bf16):
        return f"it is {x.dtype}, but must be f16 or bf16"
    if (why := _static(x, weight, chosen)) or fixed(weight.shape[2]) % 32 == 0:
        return why
    return f"K is {weight.shape[2]}, but must be a multiple of 32"


@kernel("experts_plain.cu", lambda op: _static(op.x, op.fc, op.chosen))
def plain_experts_inner(op: ExpertsInner) -> Launch:
    return _plain(op, op.fc, op.chosen, product(*op.chosen.shape), outer=False)


@kernel("experts_plain.cu", lambda op: _static(op.inner, op.proj, op.chosen))
def plain_experts_outer(op: ExpertsOuter) -> Launch:
    return _plain(op, op.proj, op.chosen, op.chosen.shape[0], outer=True)


@kernel("experts.cu", lambda op: _skinny(op.x, op.fc, op.chosen))
def experts_inner(op: ExpertsInner) -> Launch:
    """A block makes 16 elements of what one expert makes of its tokens."""
    experts, width, _ = op.fc.shape
    return _launch(op, op.fc, op.chosen, (ceildiv(width, 16), fixed(experts), 1), outer=False)


@kernel("experts.cu", lambda op: _skinny(op.inner, op.proj, op.chosen))
def experts_outer(op: ExpertsOuter) -> Launch:
    """A block makes 16 elements of y for 8 tokens."""
    tokens, width = op.type.shape
    return _launch(op, op.proj, op.chosen, (ceildiv(width, 16), ceildiv(tokens, 8), 1), outer=True)


def _defines(weight: Value, chosen: Value, outer: bool) -> dict[str, int | str]:
    experts, width, inner = (fixed(s) for s in weight.shape)
    return {
        "T": weight.dtype.name, "OUTER": int(outer), "EXPERTS": experts, "WIDTH": width, "INNER": inner,
        "PICKS": fixed(chosen.shape[1]), "WARPS": 8,
    }   # fmt: skip


def _plain(op: ExpertsInner | ExpertsOuter, weight: Value, chosen: Value, columns: Size | str, outer: bool) -> Launch:
    """A warp makes one element."""
    defines = _defines(weight, chosen, outer) | {"VECTOR": vector(weight.dtype, fixed(weight.shape[2]))}
    arguments = (*(operand(f.name) for f in op.fields), result())
    return Launch("plain_experts", defines, (ceildiv(weight.shape[1], 8), text(columns), 1), (256, 1, 1), arguments)


def _launch(
    op: ExpertsInner | ExpertsOuter, weight: Value, chosen: Value, grid: tuple[int | str, int | str, int], outer: bool
) -> Launch:
    arguments = (*(operand(f.name) for f in op.fields), result(), Scalar("i32", text(chosen.shape[0])))
    return Launch("experts", _defines(weight, chosen, outer), grid, (256, 1, 1), arguments)
