"""Parameters that model-parallel ranks have parts of, or each all of, as one."""

from __future__ import annotations

from trtc.errors import TrtcError
from trtc.frontend.sources.deepspeed_rules import Join
from trtc.frontend.weights import mismatch
from trtc.ir.op import Value
from trtc.ir.ops import Add, Cast, Concat, Mul, Slice, scalar
from trtc.ir.types import TensorType, f32


def combined(name: str, parts: list[Value], join: Join, shape: tuple[int, ...], *, padded: bool = False) -> Value:
    """A parameter of this shape, of what the ranks have.

    Args:
        name: for messages.
        padded: there may be more rows, at the end.
    Errors:
        TrtcError: the parts do not fit together, or make up another shape.
    """
    axis = 0 if join != "columns" or len(parts[0].shape) < 2 else 1
    if len({(part.dtype, part.shape[:axis], part.shape[axis + 1 :]) for part in parts}) > 1:
        raise TrtcError(f"the parts of {name} are {', '.join(str(p.type) for p in parts)}, but must fit together")
    made = _joined(parts, join, axis)
    if padded and made.shape and made.shape[1:] == shape[1:] and _rows(made) > shape[0]:
        made = Slice(made, 0, 0, shape[0])
    if made.shape != shape:
        raise mismatch(name, TensorType(made.dtype, made.shape), shape)
    return made


def _joined(parts: list[Value], join: Join, axis: int) -> Value:
    if join == "first":
        return parts[0]
    if join == "mean":
        total: Value = Cast(parts[0], f32)
        for part in parts[1:]:
            total = Add(total, Cast(part, f32))
        return Mul(total, scalar(1 / len(parts), f32))
    if join == "halves":
        pairs = [(part, _rows(part) // 2) for part in parts]
        return Concat(tuple(Slice(part, 0, half * n, n) for half in range(2) for part, n in pairs), 0)
    return Concat(tuple(parts), axis)


def _rows(value: Value) -> int:
    rows = value.shape[0]
    assert isinstance(rows, int)
    return rows
