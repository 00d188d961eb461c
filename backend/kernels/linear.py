"""Kernels of dense layers for few rows: what a decode step multiplies."""

from __future__ import annotations

from dataclasses import replace

from trtc.backend.kernels.kernel import kernel
from trtc.backend.kernels.launch import Argument, Launch, Scalar, ceildiv, count, operand, product, result
from trtc.backend.kernels.ops import FusedLinear, Gated, LinearForNorm
from trtc.backend.kernels.ops.linear import ACTIVATIONS
from trtc.backend.kernels.rules import fixed, float_type, last_axis, rows, threads, vector
from trtc.ir.op import Value
from trtc.ir.ops import Linear, SwiGLU
from trtc.ir.types import bf16, f8e4m3, f16

MOST = 16             # rows of x that a block of the tensor cores' kernel takes
MOST_SQUARED = 8192   # elements of a row whose squares it adds: they are in shared memory


def _static(op: Linear | FusedLinear) -> str | None:
    outer, inner = op.weight.shape
    if not isinstance(outer, int) or not isinstance(inner, int):
        return f"weight is {op.weight.type}, but must be static"
    return float_type(op.x)


def _plain(op: Linear | FusedLinear) -> str | None:
    if isinstance(op, FusedLinear) and op.squares:
        return "it is given squares, but must multiply x as it is"
    if op.weight.dtype != op.x.dtype:
        return f"weight is {op.weight.dtype}, but must be {op.x.dtype} as x"
    return _static(op)


def _skinny(op: Linear | FusedLinear) -> str | None:
    if op.x.dtype not in (f16, bf16):
        return f"x is {op.x.dtype}, but must be f16 or bf16"
    if isinstance(op, FusedLinear) and op.squares and (why := _squared(op.x)):
        return why
    chunk = 512 // op.weight.dtype.bits
    if why := _static(op):
        return why
    if fixed(op.weight.shape[1]) % chunk:
        return f"K is {op.weight.shape[1]}, but must be a multiple of {chunk}"
    each = chunk // 4   # of a row that a thread loads
    if isinstance(op, FusedLinear) and op.group % each:
        return f"a scale is of {op.group} elements of a row, but must be of a multiple of {each} of {op.weight.dtype}"
    return None


def _squared(x: Value) -> str | None:
    """Why x is not divided by its root mean square: before that it may be larger than f16 can be."""
    if x.dtype != bf16:
        return f"x is {x.dtype}, but must be bf16 where it is normalised"
    inner = fixed(x.shape[-1])
    fits = inner % 64 == 0 and inner <= MOST_SQUARED
    return None if fits else f"K is {inner}, but must be a multiple of 64 up to {MOST_SQUARED} where x is normalised"


def _for_norm(op: LinearForNorm) -> str | None:
    return _skinny(op.product) if op.dtype == bf16 else f"x is {op.dtype}, but must be bf16 where y is normalised"


@kernel("linear_plain.cu", _plain)
def plain_linear(op: Linear) -> Launch:
    """A warp makes one column of y."""
    return _plain_launch(_fused(op))


@kernel("linear_plain.cu", _plain)
def plain_fused_linear(op: FusedLinear) -> Launch:
    """A warp makes one column of y."""
    return _plain_launch(op)


@kernel("linear.cu", _skinny)
def skinny_linear(op: Linear) -> Launch:
    """A block makes 16 or 32 columns of y, for 8 or 16 rows."""
    return _skinny_launch(_fused(op))


@kernel("linear.cu", _skinny)
def skinny_fused_linear(op: FusedLinear) -> Launch:
    """A block makes 16 or 32 columns of y, for 8 or 16 rows."""
    return _skinny_launch(op)


@kernel("linear.cu", _for_norm)
def skinny_linear_for_norm(op: LinearForNorm) -> Launch:
    """A block makes 16 columns of y and z, for 8 or 16 rows, and a sum of squares of each row."""
    launch = _skinny_launch(op.product)
    *given, y, columns, cap = launch.arguments
    arguments = (*given, operand("gain"), y, result(1), result(2), columns, cap)
    by_row = op.weight.dtype.bits == 8 and launch.defines["GROUP"] == launch.defines["INNER"]
    held = 3 if by_row else launch.defines["BLOCKS"]   # as without a norm, whose registers are fewer
    return replace(launch, defines={**launch.defines, "FOR_NORM": 1, "BLOCKS": held}, arguments=arguments)


def _fused(op: Linear) -> FusedLinear:
    return FusedLinear(op.x, op.weight, None, op.bias)


def _defines(op: FusedLinear) -> dict[str, int | str]:
    outer, inner = op.weight.shape
    return {
        "T": op.dtype.name, "ROWS": fixed(outer), "INNER": fixed(inner),
        "GATED": int(bool(op.activation)), "ACTIVATION": ACTIVATIONS.index(op.activation),
        "BIAS": int(op.bias is not None), "RESIDUAL": int(op.residual is not None),
        "SOFTCAP": int(op.softcap > 0),
    }   # fmt: skip


def _arguments(op: FusedLinear) -> tuple[Argument, ...]:
    given = [operand(f.name) for f in op.fields if f.is_operand and getattr(op, f.name) is not None]
    eps = (Scalar("f32", op.eps),) if op.squares else ()
    return (*given, result(), count(product(*rows(op.x.type))), Scalar("f32", op.softcap), *eps)


def _plain_launch(op: FusedLinear) -> Launch:
    warps, columns = 8, 8
    defines = _defines(op) | {"VECTOR": vector(op.dtype, fixed(op.x.shape[-1])), "WARPS": warps, "COLUMNS": columns}
    grid = (ceildiv(fixed(op.type.shape[-1]), warps), ceildiv(product(*rows(op.x.type)), columns), 1)
    return Launch("plain_linear", defines, grid, (32 * warps, 1, 1), _arguments(op))


def _skinny_launch(op: FusedLinear) -> Launch:
    columns = product(*rows(op.x.type))
    few = isinstance(columns, int) and columns <= MOST // 2
    outer, gated = fixed(op.type.shape[-1]), bool(op.activation)
    bits, tiles = op.weight.dtype.bits, 2 if gated else 1
    warps, depth = (16, 2 if bits == 16 else 1) if few else (8, 2)   # what measured best on an H100
    warps = 8 if bits == 4 and gated else warps
    defines = _defines(op) | {
        "BITS": bits, "FLOATS": int(op.weight.dtype == f8e4m3), "GROUP": op.group, "ZEROS": int(op.zeros is not None),
        "TILES": tiles, "COLUMNS": 1 if few else 2, "WARPS": warps, "DEPTH": depth, "INPUTS": depth,
        "BLOCKS": 3 if warps == 8 and few else 1, "SQUARES": int(op.squares is not None), "FOR_NORM": 0,
    }   # fmt: skip
    grid = (ceildiv(outer, 16 if gated else 16 * tiles), ceildiv(columns, 8 if few else 16), 1)
    return Launch("skinny_linear", defines, grid, (32 * warps, 1, 1), _arguments(op))


def _two(op: SwiGLU) -> str | None:
    return float_type(op.gate)


@kernel("gated.cu", _two)
def swiglu(op: SwiGLU) -> Launch:
    """A thread makes up to 16 bytes of y, of two operands."""
    width = op.type.shape[-1]
    step = vector(op.dtype, width) if isinstance(width, int) else 1
    defines = {"T": op.dtype.name, "VECTOR": step, "THREADS": 256, "ACTIVATION": 1, "WIDTH": 0}
    grid = (ceildiv(product(*op.type.shape), 256 * step), 1, 1)
    arguments = (operand("gate"), operand("up"), result(), count(product(*op.type.shape)))
    return Launch("gate", defines, grid, (256, 1, 1), arguments)


@kernel("gated.cu", lambda op: last_axis(op.x))
def gated(op: Gated) -> Launch:
    """A thread makes up to 16 bytes of y, of the two halves of a row."""
    width = fixed(op.type.shape[-1])
    step = vector(op.dtype, width)
    block = threads(width // step, most=256)
    defines = {
        "T": op.dtype.name, "VECTOR": step, "THREADS": block, "WIDTH": width,
        "ACTIVATION": ACTIVATIONS.index(op.activation),
    }   # fmt: skip
    grid = (ceildiv(product(*op.type.shape), block * step), 1, 1)
    arguments = (operand("x"), operand("x"), result(), count(product(*op.type.shape)))
    return Launch("gate", defines, grid, (block, 1, 1), arguments)
